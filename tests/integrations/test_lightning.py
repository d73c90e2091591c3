"""Lightning's Trainer and Fabric, the real ones: against loops by hand, and resumed against undisturbed."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning
import torch
from lightning.fabric import Fabric
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional as F

from holdfast import EWC, L2SP, SI, ConfigurationError, LwF, ProtectionError
from holdfast.integrations.lightning import Protect
from holdfast.testing.cases import adam, consolidate, network, same_state, train
from tests.integrations.lit import NEW, OLD, Lit, by_hand, far, fit

METHODS = {
    "ewc": lambda m: EWC(m, strength=30.0),
    "ewc, loss": lambda m: EWC(m, strength=30.0, coupling="loss"),
    "si": lambda m: SI(m, strength=3.0),
    "lwf": lambda m: LwF(m, strength=3.0),
}
THROUGH_LOSS = ("ewc, loss", "lwf")


def learned(name, kind=None):
    """A network that has learned the old task, and what keeps it."""
    net = network()
    keep = METHODS[name](net)
    optimizer = adam(net)
    keep.attach(optimizer)
    train(net, optimizer, OLD, keep)
    consolidate(net, optimizer, OLD, keep)
    return net, keep


def module_of(net, way="automatic", kind=Lit):
    module = kind(way)
    module.net = net
    return module


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("way", ["automatic", "dict, two", "manual, two"])
def test_a_module_that_knows_nothing_trains_as_a_loop_by_hand(name, way):
    way, _, micro = way.partition(", ")
    net, keep = learned(name)
    module = module_of(net, way)
    fit(module, Protect(keep), accumulate_grad_batches=2 if way == "dict" else 1)
    assert "training_step" not in vars(module) and keep.num_tasks == 1
    again, other = learned(name)
    by_hand(again, other, micro=2 if micro else 1)
    assert far(net, again) < 1e-6
    again, other = learned(name)
    by_hand(again, METHODS[name](again), micro=2 if micro else 1)
    assert far(net, again) > 1e-3  # it was protected at all
    keep.consolidate(NEW)


@pytest.mark.parametrize("name", THROUGH_LOSS)
@pytest.mark.parametrize("way", ["automatic", "manual"])
def test_whoever_adds_the_term_is_left_alone(name, way):
    net, keep = learned(name)
    module = module_of(net, way)
    fit(module, Protect(keep, log=False))
    own = copy.deepcopy(net)
    net, keep = learned(name)
    again = module_of(net, way)
    again.keep = keep
    asked = keep.penalty_calls.asked
    fit(again, Protect(keep, log=False))
    assert keep.penalty_calls.asked - asked == len(NEW)
    if way == "automatic":
        assert far(own, net) == 0.0
        assert module.calls == again.calls == len(NEW)  # what the model answered is used, not asked for again
    else:
        assert far(own, net) < 1e-6


class Adversaries(Lit):
    """Two optimizers that take turns, one of them resting every second batch, each clearing what the other left."""

    def training_step(self, batch, batch_idx):
        for number, optimizer in enumerate(self.optimizers()):
            if number == 1 and batch_idx % 2:
                continue
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        head = list(self.net.head.parameters())
        rest = [p for p in self.net.parameters() if all(p is not other for other in head)]
        return torch.optim.SGD(rest, lr=0.05), torch.optim.SGD(head, lr=0.05)


@pytest.mark.parametrize("name", THROUGH_LOSS)
def test_each_of_several_optimizers_gets_one_term_a_step(name):
    net, keep = learned(name)
    fit(module_of(net, "manual", Adversaries), Protect(keep))
    again, other = learned(name)
    first, second = module_of(again, "manual", Adversaries).configure_optimizers()
    other.attach(first, second)
    again.train()
    for at, batch in enumerate(NEW):
        for optimizer in (first,) if at % 2 else (first, second):
            again.zero_grad()
            outputs = again(batch[0])
            (F.cross_entropy(outputs, batch[1]) + other.penalty(batch, outputs)).backward()
            optimizer.step()
    assert far(net, again) < 1e-6


class Stops(Callback):
    """As a power cut does."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("way", ["automatic", "manual"])
def test_a_resumed_run_is_an_undisturbed_one_to_the_bit(name, way, tmp_path):
    net, keep = learned(name)
    fit(module_of(net, way), Protect(keep))
    keep.consolidate(NEW)
    stopped, other = learned(name)
    saves = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=2)
    with pytest.raises(SystemExit):
        fit(module_of(stopped, way), Protect(other), saves, Stops(5))
    path = next(tmp_path.glob("*.ckpt"))
    again = network(seed=5)
    resumed = METHODS[name](again)
    fit(module_of(again, way), Protect(resumed), path=path)
    assert resumed.num_tasks == 1
    resumed.consolidate(NEW)
    assert far(net, again) == 0.0 and resumed.num_tasks == 2
    if way == "automatic":  # where the term's own forward pass has not moved the batch statistics
        assert same_state(keep.state_dict(), resumed.state_dict())


def test_two_tasks_in_two_trainers_and_consolidate_at_the_end():
    net = network()
    keep = EWC(net, strength=30.0)
    fit(module_of(net), Protect(keep, consolidate=True), data=OLD)
    assert keep.num_tasks == 1
    fit(module_of(net), Protect(keep, consolidate=True, samples=5))
    assert keep.num_tasks == 2
    again = network()
    other = EWC(again, strength=30.0)
    for data, seen in ((OLD, OLD), (NEW, NEW[:1])):
        by_hand(again, other, data=data)
        other.consolidate(seen)
    assert len(NEW[0][0]) >= 5 and far(net, again) < 1e-6
    for name, held in keep.state.items():
        torch.testing.assert_close(held["importance"], other.state[name]["importance"], rtol=1e-4, atol=1e-6)


def test_logs_say_what_the_method_does(tmp_path):
    net, keep = learned("ewc")
    trainer = fit(module_of(net), Protect(keep), logger=CSVLogger(tmp_path), log_every_n_steps=2)
    header, *rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    assert {"holdfast/penalty", "holdfast/penalty_share", "holdfast/distance"} <= set(header.split(","))
    assert len(rows) == len(NEW) // 2
    assert 0 < float(trainer.callback_metrics["holdfast/penalty_share"]) < 1
    distance = sum((p - keep.state[n]["anchor"]).square().sum() for n, p in keep.params.items() if n in keep.state)
    torch.testing.assert_close(trainer.callback_metrics["holdfast/distance"], distance.sqrt().detach())
    torch.testing.assert_close(trainer.callback_metrics["holdfast/penalty"], keep.value().detach())


def test_the_package_of_the_old_name(tmp_path):
    class Old(pytorch_lightning.LightningModule):
        training_step, forward = Lit.training_step, Lit.forward
        configure_optimizers = Lit.configure_optimizers

        def __init__(self, net):
            super().__init__()
            self.net, self.way, self.keep, self.calls = net, "automatic", None, 0

    net, keep = learned("lwf")
    fit(Old(net), Protect(keep), kind=pytorch_lightning.Trainer)
    again, other = learned("lwf")
    by_hand(again, other)
    assert far(net, again) < 1e-6


def test_a_method_within_a_module_that_is_called_otherwise_asks_itself():
    class Scaled(Lit):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0] * 2), batch[1])

    net, keep = learned("lwf")
    module = module_of(net, kind=Scaled)
    fit(module, Protect(keep))
    again, other = learned("lwf")
    optimizer = torch.optim.AdamW(again.parameters(), lr=0.01)
    other.attach(optimizer)
    again.train()
    for batch in NEW:
        optimizer.zero_grad()
        (F.cross_entropy(again(batch[0] * 2), batch[1]) + other.penalty(batch)).backward()
        optimizer.step()
    assert far(net, again) < 1e-6


def test_averaged_weights_are_those_remembered():
    def averages():
        return WeightAveraging(avg_fn=lambda average, new, n: average + 0.5 * (new - average))

    net, raw = network(), network()
    keep, other = L2SP(net, strength=1.0), L2SP(raw, strength=1.0)
    with pytest.raises(ConfigurationError, match=r"WeightAveraging puts the averaged weights .*callbacks=\["):
        fit(module_of(net), Protect(keep, consolidate=True), averages())
    fit(module_of(net), averages(), Protect(keep, consolidate=True))
    fit(module_of(raw), Protect(other, consolidate=True))
    assert keep.num_tasks == 1 and far(net, raw) > 1e-3
    assert all(torch.equal(held["anchor"], keep.params[name]) for name, held in keep.state.items())


def test_what_is_refused():
    net, keep = learned("lwf")
    with pytest.raises(ConfigurationError, match="keep is a Net"):
        Protect(net)
    with pytest.raises(ConfigurationError, match="samples is 0"):
        Protect(keep, samples=0)

    class Iterates(Lit):
        def training_step(self, dataloader_iter):
            batch, *_ = next(dataloader_iter)
            return F.cross_entropy(self(batch[0]), batch[1])

    module = module_of(net, kind=Iterates)
    with pytest.raises(ConfigurationError, match="iterator of batches, so the term of LwF"):
        fit(module, Protect(keep))
    assert "training_step" not in vars(module)
    with pytest.raises(ProtectionError, match="in none of the optimizers"):
        fit(Lit(), Protect(keep))


@pytest.mark.parametrize("name", METHODS)
def test_fabric_saves_and_loads_it(name, tmp_path):
    def prepared(net, keep):
        fabric = Fabric(accelerator="cpu", devices=1)
        model, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=0.01))
        keep.attach(optimizer)
        model.train()
        return fabric, model, optimizer

    def steps(fabric, model, optimizer, keep, data):
        for batch in data:
            outputs = model(batch[0])
            fabric.backward(F.cross_entropy(outputs, batch[1]) + keep.penalty(batch, outputs))
            optimizer.step()
            optimizer.zero_grad()

    net, keep = learned(name)
    fabric, model, optimizer = prepared(net, keep)
    steps(fabric, model, optimizer, keep, NEW[:3])
    fabric.save(tmp_path / "half.ckpt", {"model": model, "optimizer": optimizer})
    steps(fabric, model, optimizer, keep, NEW[3:])
    again = network(seed=5)
    resumed = METHODS[name](again)
    fabric, model, optimizer = prepared(again, resumed)
    fabric.load(tmp_path / "half.ckpt", {"model": model, "optimizer": optimizer})
    steps(fabric, model, optimizer, resumed, NEW[3:])
    assert far(net, again) == 0.0 and same_state(keep.state_dict(), resumed.state_dict())
