"""Whatever stands in a file or behind ``--set``, its reader takes it or refuses it in a sentence; it writes nothing.

HOLDFAST_FUZZ is how many cases there are, shared equally by the eight tests.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from holdfast import registry
from holdfast.bench import recipes
from holdfast.bench.comparing import compare, plan, protocols, rehearsal
from holdfast.bench.comparing.typed import per_method
from holdfast.bench.data.tasks import Stream
from holdfast.bench.jobs import manifest
from holdfast.bench.jobs.job import Job
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Record, RunConfig
from holdfast.bench.training.checkpoint import Checkpoints
from holdfast.bench.training.snapshot import Cursor, Ledger, Snapshot
from holdfast.errors import HoldfastError, StateError
from holdfast.files import load_state, save_state
from tests.bench.records.make import make_record
from tests.bench.training.stops import small_config, small_stream
from tests.disks import files_in

CASES = int(os.environ.get("HOLDFAST_FUZZ", "480")) // 8
# Without the phase that explains a failure: it traces every line, and what is slow then looks like a hang.
fuzzed = settings(max_examples=CASES, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])

T = TypeVar("T")

numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 1 << 70, 1e308, -0.0])
words = st.text(max_size=6) | st.text(st.characters(exclude_categories=()), max_size=3)  # surrogates too
words |= st.sampled_from(["ewc", "nan", "inf", "-1", "1e400", "9" * 5000, "true", "None", "\0", "../x", "a=b", "$dict"])
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@contextmanager
def no_hang(seconds: int = 60) -> Iterator[None]:
    """Break off what takes forever."""

    def break_off(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no answer within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, break_off)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(read: Callable[[], T], kind: type[HoldfastError] = HoldfastError) -> T | None:
    """What a reader returns; ``None`` if it refuses in a sentence. Any other error is a failure of the test."""
    with no_hang():
        try:
            return read()
        except kind as error:
            sentence = str(error)
            assert sentence.strip()
            assert "Traceback" not in sentence
            return None


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree of dicts and lists: container and key."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in [(tree, key), *places(tree[key])]]


def changed_tree(data: st.DataObject, tree: Any, replacements: st.SearchStrategy[Any] = values) -> Any:
    """A copy of a tree with a few values replaced, keys removed or keys added."""
    tree = copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            break
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        what = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "replace" or isinstance(container, list):
            container[key] = data.draw(replacements)
        elif what == "remove":
            del container[key]
        else:
            container[data.draw(words)] = data.draw(replacements)
    return tree


def changed_bytes(data: st.DataObject, content: bytes) -> bytes:
    """A copy of a file with bytes changed, cut out, put in or cut off."""
    found = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(found)))
        length = data.draw(st.integers(0, 40))
        put = data.draw(st.binary(max_size=10) | st.just(b"[" * 1500))
        found[start : start + length] = put
    return bytes(found if data.draw(st.booleans()) else found[: data.draw(st.integers(0, len(found)))])


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder for one case, so that no case sees what another has left."""
    with tempfile.TemporaryDirectory(prefix="holdfast-fuzz-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return small_stream()


A_RECORD = make_record("ewc", tasks=2)
RECIPES = {path.stem: path.read_bytes() for path in sorted(Path(recipes.__file__).parent.glob("*.yaml"))}


@fuzzed
@given(st.data())
def test_records(data: st.DataObject) -> None:
    with new_folder() as folder:
        path = folder / "record.json"
        tree = json.loads(A_RECORD.model_dump_json())
        if data.draw(st.booleans()):
            path.write_bytes(as_json(changed_tree(data, tree)))
        else:
            path.write_bytes(changed_bytes(data, as_json(tree)))
        found = answer(lambda: records.load(path), StateError)
        if found is not None:  # what is taken can be written and read again
            assert isinstance(found, Record)
            again = records.load(records.save(found, folder / "again.json"))
            assert records.without_times(again) == records.without_times(found)
            (folder / "again.json").unlink()
        assert files_in(folder) == ["record.json"]
        path.unlink()


@fuzzed
@given(st.data())
def test_checkpoints(stream: Stream, data: st.DataObject) -> None:
    with new_folder() as folder:
        config = small_config(stream, "ewc")
        inner = folder / "checkpoints"
        said: list[str] = []
        keeper = Checkpoints(inner, config, share=float("inf"), warn=said.append)
        for steps in (1, 2):
            learner = {"model": {"weight": torch.ones(2, 2)}, "optimizer": {"state": {0: {"step": 1}}}, "method": None}
            snapshot = Snapshot(Cursor(0, 0, 0, steps), Ledger(steps=steps), learner, {"least": 0.5}, {}, {})
            keeper.keep(lambda snapshot=snapshot: snapshot, must=True)  # type: ignore[misc]  # a default argument
        latest = inner / "checkpoint-000002.safetensors"
        whole = load_state(latest)
        if data.draw(st.booleans()):  # a checksum that is right, around contents that are not
            changed = changed_tree(data, whole, values | st.just(torch.ones(3)))
            answer(lambda: save_state(changed, latest), StateError)
        else:
            latest.write_bytes(changed_bytes(data, latest.read_bytes()))
        before = files_in(inner)
        answer(lambda: load_state(latest), StateError)
        found = answer(Checkpoints(inner, config, warn=said.append).load, StateError)
        assert files_in(inner) == before
        if said:  # the one before it is used
            assert found is not None and found.ledger.steps == 1
            assert len(said) == 1 and str(latest) in said[0]
        keeper.clear()
        assert files_in(folder) == []


@fuzzed
@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda tail: (40).to_bytes(8, "little") + b"{" + tail))
def test_states(content: bytes) -> None:
    with new_folder() as folder:
        path = folder / "state"
        path.write_bytes(content)
        assert answer(lambda: load_state(path), StateError) is None
        path.unlink()


METHODS = [entry.name for entry in registry.entries()]
KEYS = sorted({key for entry in registry.entries() for key in entry.defaults})
typed = words | numbers.map(str) | st.sampled_from(["gradient", "loss", "proximal", "auto", "*", "1,2", "0.5", "3"])


@fuzzed
@given(
    st.sampled_from(METHODS),
    st.lists(st.tuples(st.sampled_from(KEYS) | words, typed).map("=".join) | words, max_size=3),
)
def test_settings(stream: Stream, method: str, texts: list[str]) -> None:
    def read() -> RunConfig:
        found = per_method("--set", texts, (method,))
        comparison = compare.Comparison(stream, (method,), settings=found, changes={"model": "mlp-2"})
        compare.check(comparison)  # builds the model, the optimizer and the method
        return comparison.config(method, 0)

    config = answer(read)
    if config is not None:
        words_ = plan.command(config)
        assert words_.startswith("holdfast run")


@fuzzed
@given(st.dictionaries(st.sampled_from(METHODS), st.dictionaries(words, st.lists(typed, max_size=3), max_size=2)))
def test_grids(stream: Stream, grids: dict[str, dict[str, list[str]]]) -> None:
    def read() -> dict[str, list[Job]]:
        return compare.candidates(compare.Comparison(stream, tuple(grids), grids=grids, changes={"model": "mlp-2"}))

    answer(read)


@fuzzed
@given(st.data())
def test_configurations(stream: Stream, data: st.DataObject) -> None:
    of_the_stream = {
        "stream",
        "scenario",
        "tasks",
        "training_outputs",
        "method",
        "seed",
        "hyperparameters",
        "pretraining",
    }
    names = st.sampled_from(sorted(set(RunConfig.model_fields) - of_the_stream))
    method = data.draw(st.sampled_from(METHODS))
    fields = data.draw(st.dictionaries(names, values, max_size=3))
    changes = {name: fields.pop(name) for name in list(fields) if name in protocols.Protocol.__dataclass_fields__}

    def read() -> RunConfig:
        config = plan.plan(stream, method, changes=changes, **fields)
        rehearsal.check(config.model_copy(update={"model": config.model if ":" in config.model else "mlp-2"}), stream)
        return config

    config = answer(read)
    if config is not None:
        assert RunConfig.model_validate_json(config.model_dump_json()) is not None


@fuzzed
@given(st.data())
def test_recipes(data: st.DataObject) -> None:
    with new_folder() as folder:
        name, whole = data.draw(st.sampled_from(sorted(RECIPES.items())))
        path = folder / f"{name}.yaml"
        if data.draw(st.booleans()):
            path.write_bytes(changed_bytes(data, whole))
        else:
            tree = changed_tree(data, yaml.safe_load(whole))
            path.write_bytes(yaml.safe_dump(tree, allow_unicode=False).encode())
        answer(lambda: recipes.read(path), StateError)
        path.unlink()


@fuzzed
@given(st.data())
def test_manifests(data: st.DataObject) -> None:
    with new_folder() as folder:
        manifest.write(folder, ["run", "split-digits", "--method", "ewc"])
        path = folder / "checkpoints" / "manifest.json"
        if data.draw(st.booleans()):
            path.write_bytes(as_json(changed_tree(data, json.loads(path.read_bytes()))))
        else:
            path.write_bytes(changed_bytes(data, path.read_bytes()))
        found = answer(lambda: manifest.read(folder), StateError)
        if found is not None:
            answer(lambda: found.words_for(folder))
        path.unlink()
        assert files_in(folder) == []
