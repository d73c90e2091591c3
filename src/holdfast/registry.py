"""Every method, optimizer and baseline: one line each. Nothing else lists them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from holdfast.checks import unknown_name
from holdfast.entry import Bound, Choice, Entry, Promise, Range, Value

__all__ = ["Bound", "Choice", "Entry", "Range", "Value", "bound", "entries", "lookup"]

_STRENGTH = {"coupling": "gradient"}
_QUADRATIC: frozenset[Promise] = frozenset({"quadratic"})
_PATH: frozenset[Promise] = frozenset({"quadratic", "path-integral"})

_ENTRIES = (
    Entry("finetune", "baseline", "baseline", None, "no protection: the floor", "0", control=True, bound="floor"),
    Entry(
        "joint", "baseline", "baseline", None, "all data at once: the ceiling", "0", control=True, bound="ceiling",
        all_at_once=True,
    ),
    Entry(
        "l2sp", "method", "penalty", "holdfast.penalties.l2sp:L2SP", "Li et al. 2018, arXiv:1802.01483", "1",
        {"strength": 1e-2, **_STRENGTH}, {"strength": Range(1e-5, 1e2)}, {"anchors": "latest"}, control=True,
        promises=_QUADRATIC,
    ),
    Entry(
        "ewc", "method", "penalty", "holdfast.penalties.ewc:EWC", "Kirkpatrick et al. 2017, arXiv:1612.00796", "2",
        {"strength": "auto", "fisher": "auto", **_STRENGTH}, {"strength": Range(1e0, 1e7)},
        needs_data=True, promises=_QUADRATIC, importance="holdfast.importance:fisher",
    ),
    Entry(
        "ewc-foreign", "method", "penalty", "holdfast.bench.recipes.foreign:ForeignEWC", "the CLASSP release", "2",
        {"strength": 1e4, **_STRENGTH}, needs_data=True, promises=_QUADRATIC, listed=False,
    ),
    Entry(
        "online-ewc", "method", "penalty", "holdfast.penalties.ewc:OnlineEWC",
        "Schwarz et al. 2018, arXiv:1805.06370", "2",
        {"strength": "auto", "decay": 1.0, "fisher": "auto", **_STRENGTH}, {"strength": Range(1e0, 1e7)},
        needs_data=True, promises=_QUADRATIC, importance="holdfast.importance:fisher",
    ),
    Entry(
        "si", "method", "penalty", "holdfast.penalties.si:SI",
        "Zenke et al. 2017, arXiv:1703.04200", "3, and 2 in training",
        {"strength": 100.0, "damping": 0.1, **_STRENGTH}, {"strength": Range(1e-2, 1e4)}, promises=_PATH,
    ),
    Entry(
        "mas", "method", "penalty", "holdfast.penalties.mas:MAS", "Aljundi et al. 2018, arXiv:1711.09601", "2",
        {"strength": "auto", "form": "squared_norm", **_STRENGTH},
        {"strength": Range(1e-3, 1e3), "form": Choice(("squared_norm", "norm"))},
        needs_data=True, promises=_QUADRATIC, importance="holdfast.importance:mas",
    ),
    Entry(
        "rwalk", "method", "penalty", "holdfast.penalties.rwalk:RWalk",
        "Chaudhry et al. 2018, arXiv:1801.10112", "6, and 2 in training",
        {"strength": "auto", "fisher_decay": 0.9, "interval": 10, "damping": 0.1, **_STRENGTH},
        {"strength": Range(1e-2, 1e4)}, promises=_PATH,
    ),
    Entry(
        "anastrophic", "method", "penalty", "holdfast.penalties.anastrophic:Anastrophic",
        "the Anastrophic release", "1",
        {"strength": 3.0, "coherence": 1.0, "phi_every": 1, **_STRENGTH},
        {"strength": Range(1e-3, 1e2), "coherence": Range(1e-3, 1e1)}, promises=_QUADRATIC,
        controls=("l2sp", "adagrad"),
    ),
    Entry(
        "anpyc", "method", "penalty", "holdfast.penalties.anpyc:ANPyC", "Peng et al. 2021, arXiv:1912.09091", "2",
        {"strength": "auto", "output": "entropy", "reduction": "sample", "sign": "released", "accumulate": "max",
         "sharpening": 0.0, "select": "*", **_STRENGTH},
        {"strength": Range(1e-1, 1e5)}, needs_data=True, promises=_QUADRATIC,
        importance="holdfast.importance:taylor",
    ),
    Entry(
        "anpyc-prune", "method", "projection", "holdfast.projections.pruning:AnpycPruning",
        "Peng et al. 2021, arXiv:1912.09091", "2.25",
        {"strength": 3e2, "output": "entropy", "reduction": "sample", "sign": "released", "variant": "paper",
         "start": 50.0, "decay": 0.8, "step": 10.0, "sharpening": 0.0, "select": "*", **_STRENGTH},
        {"strength": Range(1e-1, 1e5)}, needs_data=True,
        promises=frozenset({"quadratic", "retrains", "exact-weights"}), importance="holdfast.importance:taylor",
    ),
    Entry(
        "packnet", "method", "projection", "holdfast.projections.packnet:PackNet",
        "Mallya and Lazebnik 2018, arXiv:1711.05769", "1.5",
        {"prune": 0.5, "select": "*"}, {"prune": Range(0.3, 0.9, log=False)}, needs_task_id=True,
        promises=frozenset({"retrains", "exact-weights"}),
    ),
    Entry(
        "efficient-packnet", "method", "projection", "holdfast.reparam.efficient:EfficientPackNet",
        "Schwarz et al. 2021, arXiv:2110.00296", "1.75, and a mask for each further task",
        {"alpha": 2.0, "gamma": 0.98, "select": "*"},
        {"alpha": Range(1.0, 4.0, log=False), "gamma": Range(0.9, 1.0, log=False)}, {"head": None},
        needs_data=True, needs_task_id=True, promises=frozenset({"exact-weights"}), controls=("packnet",),
    ),
    Entry(
        "inrank", "method", "projection", "holdfast.reparam.updating:InRank", "Zhao et al. 2023, arXiv:2306.11250",
        "1, and two factors",
        {"rank": 2, "buffer": 8, "threshold": 0.9, "warmup": 200, "gap": 25, "select": "*"},
        {"rank": Choice((1, 2, 4, 8, 16)), "threshold": Range(0.5, 0.99, log=False)}, {"max_rank": None},
    ),
    Entry(
        "o-lora", "method", "penalty", "holdfast.penalties.olora:OLoRA", "Wang et al. 2023, arXiv:2310.14152",
        "0, and rows of each adapter",
        {"strength": 0.5, "shrink": 0.0, "form": "released"},
        {"strength": Range(1e-3, 1e2), "form": Choice(("released", "paper"))}, needs_adapters=True,
    ),
    Entry(
        "freeze", "method", "projection", "holdfast.projections.freeze:Freeze", "common practice", "1",
        {"select": "*", "after": 1}, promises=frozenset({"exact-weights"}),
    ),
    Entry(
        "hft", "method", "projection", "holdfast.projections.half:HFT", "Hui et al. 2024, arXiv:2404.18466", "1",
        further={"seed": None},
    ),
    Entry(
        "mofo", "method", "projection", "holdfast.projections.momentum:MoFO", "Chen et al. 2024, arXiv:2407.20999",
        "1, and 1 in training",
        {"fraction": 0.15}, {"fraction": Range(0.01, 1.0)}, {"select": None},
    ),
    Entry(
        "olor", "method", "projection", "holdfast.projections.rollback:OLOR", "Huang et al. 2024, arXiv:2401.10962",
        "1",
        {"level_max": 0.01, "level_min": 0.0, "power": 1.0, "scale_with_lr": False, "select": "*", "variant": "paper"},
        {"level_max": Range(1e-4, 1.0), "power": Choice((1.0, 2.0, 4.0))}, dial="level_max", controls=("l2sp",),
    ),
    Entry(
        "fixnorm", "method", "projection", "holdfast.projections.bounds:FixNorm", "Zhou et al. 2021, arXiv:2103.15345",
        "0, and a number",
        {"norm": "initial"}, {"norm": Choice(("initial", "sqrt_out"))},
        {"alpha": None, "select": None, "head": None},
        promises=frozenset({"bounds"}),
    ),
    Entry(
        "max-norm", "method", "projection", "holdfast.projections.bounds:MaxNorm",
        "Alshammari et al. 2022, arXiv:2203.14197", "0, and a number",
        {"threshold": 0.1, "select": "*"}, {"threshold": Range(0.01, 1.0)}, {"delta": None},
        promises=frozenset({"bounds"}),
    ),
    Entry(
        "weight-balancing", "method", "projection", "holdfast.projections.balancing:WeightBalancing",
        "Alshammari et al. 2022, arXiv:2203.14197", "0",
        {"norm": "l2", "tau": 0.7, "threshold": 0.1},
        {"norm": Choice(("l2", "tau", "max")), "tau": Range(0.1, 2.0, log=False), "threshold": Range(0.01, 1.0)},
        {"head": None}, needs_data=True, needs_one_head=True, promises=frozenset({"between-tasks"}),
    ),
    Entry(
        "gpm", "method", "projection", "holdfast.projections.subspaces:GPM", "Saha et al. 2021, arXiv:2103.09762",
        "1, and a basis",
        {"threshold": 0.95, "growth": 0.0}, {"threshold": Range(0.5, 0.999, log=False)},
        needs_data=True, dial="threshold",
    ),
    Entry(
        "sgp", "method", "projection", "holdfast.projections.subspaces:SGP", "Saha and Roy 2023, arXiv:2302.01386",
        "1, and a basis",
        {"threshold": 0.95, "alpha": 10.0, "growth": 0.0},
        {"threshold": Range(0.5, 0.999, log=False), "alpha": Range(1.0, 100.0)}, needs_data=True, dial="threshold",
    ),
    Entry(
        "adam-nscl", "method", "projection", "holdfast.projections.subspaces:AdamNSCL",
        "Wang et al. 2021, arXiv:2103.07113", "1, and 2 matrices",
        {"threshold": 0.95}, {"threshold": Range(0.5, 0.999, log=False)}, {"multiple": None}, needs_data=True,
        dial="threshold",
    ),
    Entry(
        "ncm", "head", "head", "holdfast.heads:NCM", "Mensink et al. 2013", "a mean per class",
        further={"layer": None}, needs_data=True, trains=False,
    ),
    Entry(
        "slda", "head", "head", "holdfast.heads:SLDA", "Hayes and Kanan 2020, arXiv:1909.01520", "2 matrices",
        {"shrinkage": "auto", "prior": False}, {}, {"relative": False, "layer": None},
        automatic=frozenset({"shrinkage"}), needs_data=True, trains=False,
    ),
    Entry(
        "ridge", "head", "head", "holdfast.heads:Ridge", "McDonnell et al. 2023, arXiv:2307.02251", "2 matrices",
        {"strength": "auto"}, {}, {"relative": False, "layer": None}, automatic=frozenset({"strength"}),
        needs_data=True, trains=False,
    ),
    Entry(
        "fecam", "head", "head", "holdfast.heads:FeCAM", "Goswami et al. 2023, arXiv:2309.14062", "a matrix per class",
        {"shrinkage": 1.0, "tukey": 0.5}, {"shrinkage": Range(1e-2, 1e2)}, {"layer": None},
        needs_data=True, trains=False,
    ),
    Entry(
        "h-ot", "head", "head", "holdfast.heads:TransportCalibrated", "Guo et al. 2022, arXiv:2210.04144",
        "a matrix per class, and features",
        {"tukey": 1.0, "share": 0.3, "spread": 0.21, "levels": 2}, {"share": Range(0.05, 0.95, log=False)},
        {"draws": 750, "base_samples": 25, "keep": 200, "epsilon": 0.01, "released": False, "seed": 0, "layer": None},
        needs_data=True, needs_few_shot=True, trains=False,
    ),
    Entry(
        "lwpk", "head", "head", "holdfast.heads:LwPK", "Ge et al. 2024, arXiv:2402.01201", "a mean per class",
        {"scale": 16.0, "cluster_epochs": 20}, {}, {"omega": None, "layer": None},
        needs_data=True, needs_few_shot=True, needs_unlabelled=True, trains=False,
    ),
    Entry(
        "coma", "method", "merging", "holdfast.merging.running:CoMA", "Marouf et al. 2024, arXiv:2312.08977", "1",
        {"weight": 0.5}, {"weight": Range(0.05, 0.95, log=False)}, {"density": 1.0},
        promises=frozenset({"merges", "between-tasks"}),
    ),
    Entry(
        "cofima", "method", "merging", "holdfast.merging.running:CoFiMA", "Marouf et al. 2024, arXiv:2312.08977", "2",
        {"weight": 0.5, "fisher": "auto"}, {"weight": Range(0.05, 0.95, log=False)}, {"density": 1.0},
        needs_data=True, promises=frozenset({"merges", "between-tasks"}),
    ),
    Entry(
        "lwf", "method", "distillation", "holdfast.distillation.lwf:LwF", "Li and Hoiem 2016, arXiv:1606.09282", "1",
        {"strength": 1.0, "temperature": 2.0, "variant": "paper"}, {"strength": Range(1e-2, 1e2)},
        {"direction": "forward", "non_target": False, "kl_budget": None, "on": None},
        takes_memory=True, promises=frozenset({"through-loss"}),
    ),
    Entry(
        "classp", "optimizer", "optimizer", "holdfast.optim:CLASSP", "Ludwig 2024, arXiv:2405.09637", "1",
        # The paper's lr 0.2 and threshold 0.5, which the class has as defaults, are for its own protocol: with a mean
        # loss hardly any squared gradient is above 0.5, and nothing is learned. These were chosen on split-digits by
        # validation accuracy, from the middle of a plateau: --grid classp.lr=… --grid classp.threshold=…
        {"lr": 0.02, "threshold": 1e-6, "eps": 1e-5, "power": 1.0, "scaling": True, "variant": "paper"},
        {"lr": Range(1e-3, 1.0), "threshold": Range(1e-8, 1.0)}, keeps_optimizer=True,
        controls=("l2sp", "adagrad"),
    ),
    Entry(
        "adagrad", "optimizer", "optimizer", "torch.optim:Adagrad", "Duchi et al. 2011, JMLR 12", "1",
        {"lr": 0.01}, {"lr": Range(1e-3, 1.0)}, keeps_optimizer=True, control=True,
    ),
    Entry(
        "golden-sgd", "optimizer", "optimizer", "holdfast.optim:GoldenSGD", "Jaeger 2020, arXiv:2006.04751", "0",
        # The constants of a preset, which nothing searches: 4 - √5 - √10 + √2 and √(3 - √5).
        {"lr": 0.01586792470492598, "momentum": 0.8740320488976423},
    ),
)  # fmt: skip

_BY_NAME: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def entries() -> tuple[Entry, ...]:
    """All that are offered to users, in the order in which they are shown."""
    return tuple(entry for entry in _ENTRIES if entry.listed)


def bound(which: Bound) -> Entry:
    """The baseline that is the floor of every comparison, or its ceiling.

    Example:
        >>> bound("ceiling").all_at_once
        True
    """
    return next(entry for entry in _ENTRIES if entry.bound == which)


def lookup(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ConfigurationError: naming the nearest names.

    Example:
        >>> lookup("ewc").needs_data
        True
    """
    if name not in _BY_NAME:
        raise unknown_name("method", name, [entry.name for entry in entries()])
    return _BY_NAME[name]
