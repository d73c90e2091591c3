"""The model card of an exported run: what it is, how well it does, task by task, and how to load it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from holdfast import metrics, registry
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.bench.data.sources import SOURCES
from holdfast.bench.data.tasks import Stream
from holdfast.bench.models import representation
from holdfast.bench.records.likelihood import measures
from holdfast.bench.records.record import Record

__all__ = ["render"]

_ABOUT = {
    "task": "It has a head of outputs per task and must be told which task a sample belongs to.",
    "domain": "All tasks share its outputs.",
    "class": "Every task has outputs of its own, and all outputs compete; nobody tells it the task.",
}

_HOW = {
    "default": "the default, untuned",
    "given": "given",
    "grid": "chosen on validation data",
    "tuned": "searched on validation data",
    "auto": "found in training",
    "recipe": "from the recipe",
}


def render(record: Record, stream: Stream, name: str, weights: Sequence[str], *, licence: str | None = None) -> str:
    """The card as Markdown with the metadata that model hubs read in front.

    Args:
        record: the run.
        stream: its stream.
        name: of the folder.
        weights: the files of weights.
        licence: of the weights, as hubs name it.

    Returns:
        ``README.md``.
    """
    kind = "text-classification" if stream.tokenizer is not None else "image-classification"
    kind = "text-generation" if stream.vocabulary is not None else kind
    front = yaml.safe_dump(_metadata(record, name, kind, licence), sort_keys=False, allow_unicode=True, width=1000)
    config = record.config
    parts = [
        f"---\n{front}---\n",
        f"# {name}\n",
        f"{_opening(record, stream)} {_ABOUT[config.scenario]}\n",
        *_quick(record),
        *(
            ["## Accuracy\n", _accuracy(record)]
            if record.likelihood is None
            else ["## Perplexity\n", _perplexity(record)]
        ),
        "## How it was trained\n",
        _protocol(record),
        "## Data\n",
        _data(record, stream),
        "## Limits\n",
        _limits(record),
        "## Files\n",
        _files(record, stream, weights),
        "## Loading it\n",
        _snippet(record, stream, name, weights),
    ]
    return "\n".join(parts)


def _opening(record: Record, stream: Stream) -> str:
    """What it is, in a sentence."""
    config = record.config
    entry = registry.lookup(config.method)
    told = f"{len(stream)} tasks one after the other ({config.stream}, {config.scenario}-incremental)"
    if entry.kind == "head":
        over = representation.names()[representation.parse(config.backbone or "first-task").name]
        return (
            f"`{config.method}`, a closed-form head, told {told}. It stands on `{config.backbone}` ({over}) and "
            "remembers sums of its features, so the order of the tasks does not matter and nothing is forgotten."
        )
    if entry.bound is None:
        return f"`{config.model}`, trained on {told} and kept from forgetting by `{config.method}`."
    how = "all at once" if entry.all_at_once else "one after the other without any protection"
    return f"`{config.model}`, trained on {len(stream)} tasks ({config.stream}, {config.scenario}-incremental), {how}."


def _sets(record: Record) -> list[str]:
    """The data set of every task."""
    kind, *names = record.config.stream.removeprefix("lm-").split("-")
    tasks = len(record.task_names)
    return names[:tasks] if kind == "sequence" else names[:1] * tasks


def _metadata(record: Record, title: str, kind: str, licence: str | None) -> dict[str, Any]:
    config = record.config
    sets = _sets(record)
    worth = record.likelihood
    metric, values = "accuracy", record.matrix[-1]
    if worth is not None:
        metric, values = "perplexity", [math.exp(nats) for nats in worth.matrix[-1]]
    results = [
        {
            "task": {"type": kind, "name": f"{task}, after all tasks"},
            "dataset": {
                "type": SOURCES[name].hub_id if name in SOURCES else name,
                "name": f"{config.stream}: {task}",
                "config": task,  # hubs merge results that differ in no type, config or split
                "split": config.evaluate_on,
            },
            "metrics": [{"type": metric, "value": value, "name": metric}],
        }
        for task, name, value in zip(record.task_names, sets, values, strict=True)
    ]
    found: dict[str, Any] = {"license": licence} if licence else {}
    begun = is_pretrained(config.model)
    found |= {
        "library_name": "transformers" if begun else "holdfast",
        "base_model": config.model if begun and not Path(config.model).exists() else "",
        "pipeline_tag": kind,
        "tags": ["continual-learning", "pytorch", config.method],
        "datasets": [SOURCES[name].hub_id for name in dict.fromkeys(sets) if name in SOURCES],
        "metrics": [metric],
        "model-index": [{"name": title, "results": results}],
    }
    return {key: value for key, value in found.items() if value}


def _accuracy(record: Record) -> str:
    single = len(record.matrix) == 1
    header = ["after learning", *record.task_names, "average"]
    rows = [
        ["all tasks" if single else name, *(f"{100 * value:.2f}" for value in row), f"{100 * sum(row) / len(row):.2f}"]
        for name, row in zip(record.task_names, record.matrix, strict=False)
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]
    config = record.config
    on = f"{config.evaluate_on} data" + (" with dropout on" if config.evaluate_mode == "train" else "")
    text = f"In percent, on the {on}, one run with seed {config.seed}; columns are tasks.\n\n" + "\n".join(lines) + "\n"
    forgotten = metrics.forgetting(record.matrix)
    if forgotten is not None:
        text += f"\nForgetting: {100 * forgotten:.2f} points on average over the earlier tasks.\n"
    return text


def _perplexity(record: Record) -> str:
    assert record.likelihood is not None
    found = record.likelihood
    names = ["all tasks"] if len(found.matrix) == 1 else record.task_names
    rows = list(zip(names, found.matrix, strict=False))
    if is_pretrained(record.config.model):
        rows = [("before", found.initial), *rows]
    header = ["after learning", *record.task_names]
    shown = [[name, *(f"{math.exp(nats):.1f}" for nats in row)] for name, row in rows]
    lines = [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *shown]]
    forgotten = measures(found)["nats_forgotten"]
    worse = "" if forgotten is None else f"\nForgetting: {forgotten:+.3f} nats a word over the earlier tasks.\n"
    return (
        f"Of the {record.config.evaluate_on} texts, one run with seed {record.config.seed}; columns are tasks. "
        "Comparable within one vocabulary only.\n\n" + "\n".join(lines) + f"\n{worse}"
    )


def _quick(record: Record) -> list[str]:
    if not record.config.extra.get("quick"):
        return []
    return ["**This run is a quick version, on few samples or for few epochs: its numbers mean little.**\n"]


def _protocol(record: Record) -> str:
    config = record.config
    entry = registry.lookup(config.method)
    lines = [f"- Method: `{config.method}` ({entry.source})."]
    for key, value in config.hyperparameters.items():
        by_itself = value.source == "default" and (value.value == "auto" or bool(value.detail))
        how = _HOW["auto" if by_itself else value.source]
        lines.append(f"- `{key}`: {value.value} ({how}{': ' + value.story if value.story else ''}).")
    where = record.environment
    lines += [
        *_training(record),
        f"- {where.device_name}, PyTorch {where.torch}, holdfast {where.holdfast}.",
    ]
    again = f"\nAgain:\n\n```\n{record.command}\n```\n" if record.command else ""
    return "\n".join(lines) + "\n" + again


def _training(record: Record) -> list[str]:
    """How the model's weights came about; nothing, where a head was told all and no step was taken."""
    config = record.config
    if registry.lookup(config.method).kind == "head" and not record.costs.steps:
        return [f"- Seed: {config.seed}."]
    kept = f"{config.optimizer_between_tasks} between tasks"
    return [
        f"- Optimizer: {config.optimizer}, learning rate {config.lr:g}, {kept}.",
        f"- Epochs per task: {_epochs(record)}; {config.batch_size} samples a step; seed {config.seed}.",
    ]


def _epochs(record: Record) -> str:
    config = record.config
    epochs = ", ".join(map(str, config.epochs_per_task)) or str(config.epochs)
    if not config.stop_losses:
        return epochs
    stops = ", ".join(f"{stop:g}" for stop in config.stop_losses)
    return (
        f"at most {epochs}; a task ends after an epoch whose last batch has a loss, penalty included, of at most "
        f"{stops} (task by task)"
    )


def _data(record: Record, stream: Stream) -> str:
    lines = []
    for name in dict.fromkeys(_sets(record)):
        source = SOURCES.get(name)
        about = f"{source.about} ({source.hub_id})" if source else "embedded in scikit-learn"
        lines.append(f"- `{name}`: {about}.")
    tasks = "; ".join(f"{task.name} ({len(task.train):,} training samples)" for task in stream)
    kept = "" if registry.lookup(record.config.method).all_at_once else " No sample of an earlier task was kept."
    options = "; ".join(f"`{key}`: {value}" for key, value in record.config.stream_options.items())
    asked = f"\nOptions of the stream: {options}.\n" if options else ""
    return "\n".join(lines) + f"\n\nTasks, in order: {tasks}.{kept}\n{asked}"


def _limits(record: Record) -> str:
    config = record.config
    lines = [
        "- One run of an experiment on a small benchmark, to study forgetting; it is no model for use.",
        "- Another seed gives other weights, and accuracies that may differ by much.",
    ]
    limit, test_limit = (config.stream_options.get(name) for name in ("limit_per_class", "test_limit_per_class"))
    if limit is not None:
        lines.append(f"- Of every class, only the first {limit} training samples were used.")
    if test_limit is not None and config.evaluate_on == "test":
        lines.append(f"- The accuracies are on the first {test_limit} test samples of every class only.")
    if config.scenario == "task":
        lines.append("- The accuracies hold only where the task of each sample is known.")
    if config.evaluate_on == "train":
        lines.append("- The accuracies are those on the training data, as the published protocol has it.")
    return "\n".join([*lines, *(f"- {warning}." for warning in record.warnings)]) + "\n"


def _files(record: Record, stream: Stream, weights: Sequence[str]) -> str:
    if is_pretrained(record.config.model):
        return (
            f"`{weights[0]}`, `config.json` and the tokenizer's files are those of Transformers; `holdfast.json` says "
            "how the model was trained.\n"
        )
    others = "`config.json` says what they are the weights of, and what the tasks ask"
    if stream.tokenizer is not None:
        others += "; `tokenizer.json` has the words that it knows"
    if registry.lookup(record.config.method).kind == "head":
        trunk = f"; `{weights[0]}` holds the weights of the model that it stands on" if weights else ""
        return f"`head.safetensors` holds the head: its settings, its feature map and its sums{trunk}. {others}.\n"
    if len(weights) == 1:
        return f"`{weights[0]}` holds the weights. {others}.\n"
    lines = [f"- `{file}`: {task.name} (task {task.index})." for file, task in zip(weights, stream, strict=True)]
    return (
        f"`{record.config.method}` answers each task with weights of its own. So there is no `model.safetensors`, but "
        "a whole set of weights per task, which any reader of safetensors opens:\n\n" + "\n".join(lines) + "\n\n"
        f"{others}.\n"
    )


def _snippet(record: Record, stream: Stream, name: str, weights: Sequence[str]) -> str:
    shape = ", ".join(map(str, stream.input_shape))
    answered = f"  # answered with {weights[0]}" if len(weights) > 1 else ""
    code = f"""\
import torch
from holdfast.bench.export.exporting import load

exported = load("{name}")  # the folder that this file is in
images = torch.zeros(1, {shape}, dtype=torch.uint8)  # pixels from 0 to 255
print(exported.predict(images, task=0)){answered}"""
    if stream.tokenizer is not None:
        code = f"""\
from holdfast.bench.export.exporting import load

exported = load("{name}")  # the folder that this file is in
print(exported.predict(["a text"], task=0)){answered}"""
    if is_pretrained(record.config.model):
        code = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")  # the folder that this file is in
tokenizer = AutoTokenizer.from_pretrained("{name}")
words = tokenizer(["a text"], return_tensors="pt")["input_ids"]
print(tokenizer.batch_decode(model.generate(words, max_new_tokens=5)))"""
    return f"""\
```python
{code}
```
{_head_alone(record, name, weights)}
The accuracies again, from the weights: `holdfast evaluate {name} {record.config.stream}`.
"""


def _head_alone(record: Record, name: str, weights: Sequence[str]) -> str:
    """How the head is loaded without the bench, where it stands on no model."""
    if registry.lookup(record.config.method).kind != "head" or weights:
        return ""
    return f"""
The head alone, to be told more classes:

```python
from holdfast import heads

head = heads.load("{name}/head.safetensors")
print(head.classes)
```
"""
