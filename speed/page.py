"""``docs/performance.md``, from the figures of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speed.rows import HEADERS, Row, cells

__all__ = ["markdown"]

_TITLES = {
    "ewc": "A quadratic penalty's step",
    "anastrophic": "Anastrophic",
    "paths": "Path integrals",
    "classp": "CLASSP",
    "dispatcher": "The dispatcher",
    "heads": "Closed-form heads",
    "state": "State",
    "fisher": "Importances",
    "sequences": "Importances of sequences",
    "anchors": "Near the base model",
    "runs": "Whole runs",
    "competing": "Whole runs where all classes compete",
    "avalanche": "Avalanche over the same samples",
    "large": "A transformer of 100 M parameters",
}

_ABOUT = {
    "ewc": """\
The gradient of all tasks' penalties together is `F (θ − θ*)` with folded `F` and `θ*`, so its time does not grow with
the number of tasks. Five streams over memory are the least it can do: weights, anchors, importances and gradients are
read, gradients are written. Large CPU tensors are walked in pieces that stay in the cache between two operations, so
there are exactly those five. `fused=True` compiles one pass over all tensors instead of two operations per piece; it
needs a C++ compiler, and its first step takes seconds.

The floor, here and below, is the bytes that must move over the bandwidth of a copy measured in the same rounds. A copy
also reads the memory that it is about to overwrite, which an update in place does not have to: a single compiled pass
can come out a little below the floor. The last column is the figure of work that took just the floor: on a machine
whose memory is slow at the time, a target may lie beyond it.""",
    "anastrophic": """\
Off means `coherence=0`: what is left is L2-SP, computed in O(N) by Parseval's theorem. With Φ each tensor takes one
transform and one inverse; `phi_every=k` divides that by k. The floor leaves the transforms out.""",
    "paths": "SI and RWalk stream over copies of weights and gradients. No target; the floor counts SI's 14 streams.",
    "classp": """\
One float32 tensor per parameter. Without a compiler the update is a handful of PyTorch's operations per piece, which
takes twice as long as the one C++ loop of `Adagrad(fused=True)`: the same memory moves, but every operation reads and
writes the cache again. With `fused=True` it is one compiled call for all tensors, with one loop for each: the same
memory traffic as AdaGrad's own. Where no weight of a piece passes the gate, the rest of its update is skipped.""",
    "dispatcher": "The time that an attached method with nothing to protect adds to a step.",
    "heads": """\
All that consolidating a ridge head takes: random features, the check that they are finite, a hash of each sample
(which part is held out), class sums and the Gram matrices. Rows are gathered to a chunk before a Gram matrix is
touched, and of it only what is above the diagonal is computed, so that it can take less time than the plain products.
Solving, at the first question after it, comes to a few Cholesky factorisations.""",
    "state": "The penalties of T tasks fold into one exactly, so that T does not matter.",
    "fisher": """\
Per sample, not per batch. A training pass is forward, backward and an SGD step over the same batches. The exact kind
takes one backward per class, less one, and keeps the forward pass.""",
    "sequences": """\
Where a sample meets a layer at many positions, its gradient has to be formed: a product of as much arithmetic as the
weight gradient of training, which in turn is not computed. So forward pass, backward pass to the activations and these
products are as much as a training pass. What comes on top is a pass over each sample's gradient, which stays in the
cache between the product that forms it and the operation that adds its square or absolute value. The classifiers'
positions and GPT-2's `Conv1D` have rules of their own, and so has a head that shares the words' matrix. The vocabulary
has 1000 words.""",
    "anchors": """\
LwF of a causal language model with T = 1 and every position labelled ([anchored fine-tuning](anchored.md)). The
teacher's forward pass is a third of a plain step of all weights, and more of a LoRA step, which forms few weight
gradients; the rest is the distance over the vocabulary. `teacher="base"` asks the same network with its adapters off.
The floor is a plain step and a bare forward pass of the old model. Memory is the peak of the process, the
libraries' own included.""",
    "competing": """\
EWC's Fisher with ten outputs: by default of some samples, of all of them with a backward pass for each output, or
sampled.""",
    "runs": """\
Everything a run does: training, importances, tests of all tasks before the first and after each, the watch over
numbers that are not finite, the record. The loop by hand trains and tests the same. Under SGD, whose own arithmetic is
the least that a step can have, and under Adam, with which the stream is trained by default.

A Fisher or MAS importance of every sample takes a forward pass, a backward pass to the activations and one product of
squares per layer: nearly the arithmetic of an epoch of training, so after one epoch a task it adds most of the loop's
training time again, whoever computes it. Estimated from 2000 samples of each task (`importance_samples`) it is a small
part. SI looks at every weight in every step: it copies weights and gradients before the step, and reads both with the
path integral after it (see *Path integrals*), which is much beside the arithmetic of so small a network. LwF adds a
forward pass of the old network. Below the table: where the time of each run went, and what the phases of a method's
step took.""",
    "avalanche": "Its version 0.6 over the same tensors, with its loggers off, tested on all tasks after each.",
    "large": """\
`holdfast methods --model MODEL` prints the estimate. Resident memory is that of the process, against the moment before
the method was made. The peak of consolidating holds the new importances beside the old state, and what the estimate
of importances works in.""",
}


def markdown(*runs: Mapping[str, Any]) -> str:
    """The page.

    Args:
        *runs: what the command writes as JSON, in one file or several.
    """
    rows = [Row(**{key: value for key, value in row.items() if key != "met"}) for run in runs for row in run["rows"]]
    missed = [row for row in rows if row.met is False]
    counted = [row for row in rows if row.met is not None]
    parts = ["# How fast, and how large", "", *_where(runs), ""]
    if any(run.get("quick") for run in runs):
        parts += ["**Made with `--quick`, to see that it runs: the figures mean nothing.**", ""]
    parts += [f"Of {len(counted)} figures with a target {len(counted) - len(missed)} meet it.", ""]
    for name, title in _TITLES.items():
        mine = [row for row in rows if row.bench == name]
        if mine:
            parts += [f"## {title}", "", _ABOUT[name], "", *_table(mine), ""]
            parts += [f"{note}." for note in dict.fromkeys(row.note for row in mine if row.note)]
            parts += [""] if any(row.note for row in mine) else []
    return "\n".join(parts).rstrip() + "\n"


def _where(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "Printed by `python -m speed`; no figure was typed. What stands in a row was measured in one process, in",
        "turns; times are medians, a figure that is a ratio of two measured times the median of each round's own; on a",
        "machine that others use, only such figures mean something.",
        "",
    ]
    for run in runs:
        names = ", ".join(dict.fromkeys(row["bench"] for row in run["rows"]))
        for place in run["environment"]:
            device = "" if place["device_name"] == "cpu" else f", {place['device_name']}"
            clock = "; the processor's time is counted, for others were using the machine" if run["cpu_time"] else ""
            lines.append(
                f"- {names}: {place['date']}, {place['processor']}{device}, {place['threads']} threads, "
                f"{place['platform']}, Python {place['python']}, PyTorch {place['torch']}, Holdfast "
                f"{place['holdfast']}{clock}."
            )
    return lines


def _table(rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(HEADERS) + " |", "|" + "---|" * len(HEADERS)]
    return lines + ["| " + " | ".join(cells(row)) + " |" for row in rows]
