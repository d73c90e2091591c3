"""One's own model and data: the folder that is written answers as it was audited."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from holdfast.adapt.asked import Asked
from holdfast.adapt.opening import open_model
from holdfast.adapt.points import Point, choose, front
from holdfast.adapt.running import Watcher, adapt
from holdfast.adapt.training import Settings
from holdfast.auditing import Audit
from holdfast.errors import ConfigurationError, DataError
from tests.adapt.conftest import CLASSES, FURTHER, reviews, table

TRAIN = Settings(epochs=6, batch_size=8, lr=1e-2)


def accuracy(folder: str, data: Path) -> float:
    """Right answers of a model, image by image, without the library's batches."""
    from PIL import Image

    opened = open_model(folder)
    opened.model.eval()
    files = sorted(data.rglob("*.png"))
    with torch.no_grad():
        said = [opened.classes[int(opened.model(opened.inputs([Image.open(f)])).argmax())] for f in files]
    return sum(name == f.parent.name for name, f in zip(said, files, strict=True)) / len(files)


def test_new_classes_for_images(place: Path) -> None:
    asked = Asked(
        model="mine:make", data="new", keep="old", methods=("finetune", "ewc", "lwf", "wise-ft", "slda"), out="better",
        train=TRAIN, hold=10.0,
    )  # fmt: skip
    said: list[str] = []
    outcome = adapt(asked, Watcher(say=said.append))
    assert open_model("better").classes == (*CLASSES, *FURTHER)
    old, new = outcome.audit.data
    assert old.accuracy.before.value == accuracy("mine:make", place / "old" / "test") == 1.0
    assert old.accuracy.after.value == accuracy("better", place / "old" / "test") >= 0.9
    assert new.accuracy.after.value == accuracy("better", place / "new" / "test") >= 0.9
    assert {point.method for point in outcome.points} == {"finetune", "ewc", "lwf", "slda"}
    assert len(outcome.curve) == 11 and outcome.holds
    forgot = next(point for point in outcome.points if point.method == "finetune")
    assert forgot.kept < 100 * old.accuracy.after.value  # or there would be nothing to protect
    assert outcome.curve[-1].kept == forgot.kept and outcome.curve[-1].learned == forgot.learned
    assert any("2 new classes: left, right" in line for line in said)
    written = {path.name for path in (place / "better").iterdir()}
    assert written == {"README.md", "adapted.json", "audit.json", "candidates.json", "model.safetensors", "report.html"}
    assert Audit.load("better/audit.json") == outcome.audit
    card = (place / "better" / "README.md").read_text()
    assert outcome.chosen.method in card and "| old data | accuracy (%)" in card
    page = (place / "better" / "report.html").read_text()
    assert "What was kept and what was learned" in page and "old data" in page


def test_without_old_data(place: Path) -> None:
    said: list[str] = []
    outcome = adapt(Asked(model="mine:make", data="new", out="better", train=TRAIN), Watcher(say=said.append))
    assert not any("nobody sees" in line for line in said)  # there was nothing to choose
    assert outcome.chosen.method == "l2sp" and outcome.chosen.kept is None
    (only,) = outcome.audit.data
    assert only.name == "new data" and only.accuracy.after.value > 0.5


def test_what_was_adapted_is_adapted_again(place: Path) -> None:
    from tests.adapt.conftest import draw

    adapt(Asked(model="mine:make", data="new", keep="old", methods=("slda",), out="once", train=TRAIN))
    draw(place / "third" / "train", ("bright", "left"), 8, 3)
    draw(place / "third" / "test", ("bright", "left"), 5, 4)
    outcome = adapt(Asked(model="once", data="third", keep="old", methods=("finetune",), out="twice", train=TRAIN))
    assert open_model("twice").classes == (*CLASSES, *FURTHER)
    assert outcome.audit.data[1].accuracy.before.value == accuracy("once", place / "third" / "test")


def test_trials_search_what_protects_more(place: Path) -> None:
    asked = Asked(model="mine:make", data="new", keep="old", methods=("ewc",), trials=3, out="better", train=TRAIN)
    outcome = adapt(asked)
    strengths = [point.settings.get("strength") for point in outcome.points]
    assert strengths[0] is None and len(set(strengths)) == 3
    again = adapt(replace(asked, out="again"))
    assert [point.settings for point in again.points] == [point.settings for point in outcome.points]


@pytest.mark.parametrize("method", ["lwf", "coma"])
def test_stopped_and_gone_on_with_is_the_same_to_the_last_bit(place: Path, method: str) -> None:
    asked = Asked(
        model="mine:make",
        data="new",
        keep="old",
        methods=("finetune", method),
        out="whole",
        train=replace(TRAIN, epochs=3),
    )
    adapt(asked)
    steps = {"seen": 0}

    def stop() -> bool:
        steps["seen"] += 1
        return steps["seen"] in (4, 17)  # in the middle of the first and of the second candidate

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            adapt(replace(asked, out="parts"), Watcher(stop=stop))
        assert not (place / "parts" / "model.safetensors").exists()
    adapt(replace(asked, out="parts"), Watcher(stop=stop))
    whole, parts = ((place / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    assert not (place / "parts" / "checkpoints").exists()


def test_without_a_method_it_goes_on_too(place: Path) -> None:
    """What was typed is compared, not what was made of it; and what a killed process left is put away."""
    from holdfast.adapt.running import check_folder

    asked = Asked(model="mine:make", data="new", out="better", train=TRAIN)
    with pytest.raises(KeyboardInterrupt):
        adapt(asked, Watcher(stop=lambda: True))
    check_folder(asked)
    (place / "better" / ".writing-left").mkdir()
    adapt(asked)
    assert not [path for path in (place / "better").iterdir() if path.name.startswith(".")]


def test_a_line_ends_at_what_was_trained(place: Path) -> None:
    outcome = adapt(Asked(model="mine:make", data="new", keep="old", methods=("slda",), out="better", train=TRAIN))
    assert not outcome.curve and outcome.chosen.method == "slda"


def test_the_model_as_it_was_is_no_candidate(place: Path) -> None:
    """It loses nothing, and has learned nothing."""
    outcome = adapt(
        Asked(model="mine:make", data="new", keep="old", methods=("wise-ft",), hold=0.0, out="better", train=TRAIN)
    )
    assert outcome.chosen.method == "wise-ft" and outcome.chosen.weight > 0
    assert outcome.best and all(point.weight > 0 for point in outcome.best)
    assert "front" in (place / "better" / "report.html").read_text()


def test_another_request_does_not_go_on_in_a_folder_under_way(place: Path) -> None:
    asked = Asked(model="mine:make", data="new", out="better", methods=("finetune",), train=TRAIN)
    with pytest.raises(KeyboardInterrupt):
        adapt(asked, Watcher(stop=lambda: True))
    with pytest.raises(ConfigurationError, match="another adaptation is under way"):
        adapt(replace(asked, train=replace(TRAIN, seed=1)))
    adapt(asked)
    with pytest.raises(ConfigurationError, match="which is not empty"):
        adapt(asked)


def test_a_text_classifier(sentiment: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    new = table(tmp_path / "new.csv", reviews(60, 0))
    old = table(tmp_path / "old.csv", reviews(40, 1), ("review", "class"))
    out = tmp_path / "better"
    asked = Asked(
        model=str(sentiment), data=str(new), keep=str(old), methods=("l2sp", "lwf"), out=str(out),
        train=replace(TRAIN, epochs=3),
    )  # fmt: skip
    outcome = adapt(asked)
    model, read = AutoModelForSequenceClassification.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    tested = next(data for data in outcome.audit.data if data.name == "new data")
    assert tested.samples == 12
    rows = reviews(60, 0)
    texts = {f"{number + 1}: {text}": (text, label) for number, (text, label) in enumerate(rows)}
    held = [name for name in _test_names(asked) if name in texts]
    assert len(held) == 12
    with torch.no_grad():
        said = [int(model.eval()(**read(texts[name][0], return_tensors="pt")).logits.argmax()) for name in held]
    right = sum(model.config.id2label[answer] == texts[name][1] for answer, name in zip(said, held, strict=True))
    assert tested.accuracy.after.value == right / 12


def _test_names(asked: Asked) -> list[str]:
    from holdfast.adapt.reading import Reader

    return list(Reader("texts", None, None, False, asked.train.seed).parts(asked.data)[2].names)


def test_a_language_model(writer: Path, tmp_path: Path) -> None:
    for name, seed in (("new", 0), ("old", 1)):
        (tmp_path / f"{name}.txt").write_text("\n".join(text for text, _ in reviews(40, seed)))
    asked = Asked(
        model=str(writer), data=str(tmp_path / "new.txt"), keep=str(tmp_path / "old.txt"), methods=("finetune", "lwf"),
        out=str(tmp_path / "better"), train=replace(TRAIN, epochs=2), hold=5.0,
    )  # fmt: skip
    outcome = adapt(asked)
    old, new = outcome.audit.data
    assert new.perplexity.after.value < new.perplexity.before.value
    assert old.part == "token" and outcome.chosen.kept < 0
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "better") is not None


def test_a_language_model_s_own_words_stand_in_for_old_data(writer: Path, tmp_path: Path, monkeypatch) -> None:
    from holdfast import EWC, LwF
    from holdfast.adapt import candidates

    (tmp_path / "new.txt").write_text("\n".join(text for text, _ in reviews(40, 0)))
    asked = Asked(
        model=str(writer), data=str(tmp_path / "new.txt"), methods=("ewc", "lwf"), out=str(tmp_path / "better"),
        train=replace(TRAIN, epochs=1),
    )  # fmt: skip
    seen, own = [], candidates.protected
    monkeypatch.setattr(candidates, "protected", lambda *args: seen.append(own(*args)) or seen[-1])
    written, write = [], candidates.own_words
    monkeypatch.setattr(
        candidates, "own_words", lambda *args, **kwargs: written.append(write(*args, **kwargs)) or written[-1]
    )
    outcome = adapt(asked)
    assert {point.method for point in outcome.points} == {"ewc", "lwf"}
    ewc, lwf = seen
    assert isinstance(ewc, EWC) and isinstance(lwf, LwF) and (ewc.num_tasks, lwf.num_tasks, lwf.on) == (1, 1, "memory")
    assert len(written) == 2 and torch.equal(written[0].tokens, written[1].tokens)
    assert written[0].tokens.shape == (256, 8) and bool((written[0].tokens[:, 0] == 0).all())
    assert lwf.divergence is not None and lwf.divergence > 0
    assert not (tmp_path / "better" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ("ewk",)}, "no method 'ewk'"),
        ({"methods": ("ewc",)}, "ewc, which needs data of what must not be lost: give it with --keep"),
        ({"methods": ("packnet",), "keep": "old"}, "packnet, which has an answer for each task"),
        ({"methods": ("si",), "keep": "old"}, "si, which measures while the old data are learned"),
        ({"methods": ("slda",)}, "slda, which needs data of what must not be lost"),
        ({"methods": ("fecam",), "keep": "old"}, "fecam, which has an answer that is no linear function"),
        ({"methods": ("coma",), "lora": 2}, "coma, which acts on the weights, which adapters leave as they are"),
        ({"methods": ("l2sp",), "settings": {"l2sp": {"strenth": 1.0}}}, "l2sp has no setting 'strenth'; it has stren"),
        ({"methods": ("l2sp",), "settings": {"l2sp": {"strength": -1.0}}}, "strength is -1.0; expected"),
        ({"length": 3}, "length is 3, but mine:make is no model of Transformers"),
        ({"hold": 1.0}, "hold is 1, but there are no old data"),
        ({"settings": {"ewc": {"strength": 1.0}}}, "set is for ewc"),
        ({"model": "mine:unnamed"}, "the outputs of mine:unnamed have no names"),
        ({"model": "mine:mute"}, "does not say how a sample becomes its input"),
        ({"model": "mine:broken"}, "could not be called as factory.*no such file"),
        ({"model": "mine:nothing"}, "mine has no nothing"),
    ],
)
def test_refused_before_anything_is_trained(place: Path, change: dict, words: str) -> None:
    asked = replace(Asked(model="mine:make", data="new", out="better", methods=("finetune",), train=TRAIN), **change)
    told: list[int] = []
    with pytest.raises(ConfigurationError, match=words):
        adapt(asked, Watcher(step=lambda *step: told.append(1)))
    assert not told and not (place / "better").exists()


def test_numbers_are_not_taken_for_new_classes_of_a_model_with_names(sentiment: Path, tmp_path: Path) -> None:
    rows = [(text, str(int(label == "yes"))) for text, label in reviews(20, 0)]
    asked = Asked(
        model=str(sentiment), data=str(table(tmp_path / "a.csv", rows)), methods=("finetune",), out=str(tmp_path / "x"),
        train=replace(TRAIN, epochs=1),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"classes 0, 1, but the outputs of .* are called no, yes"):
        adapt(asked)
    adapt(replace(asked, classes=("0", "1")))
    assert open_model(str(tmp_path / "x")).classes == ("0", "1")


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_a_model_of_16_bits_is_trained_in_32_and_written_as_it_was(writer: Path, tmp_path: Path, half: str) -> None:
    """In 16 bits, steps this small are rounded away."""
    from transformers import AutoModelForCausalLM

    kind = getattr(torch, half)
    AutoModelForCausalLM.from_pretrained(writer).to(kind).save_pretrained(writer)
    (tmp_path / "new.txt").write_text("\n".join(text for text, _ in reviews(40, 0)))
    asked = Asked(
        model=str(writer), data=str(tmp_path / "new.txt"), methods=("finetune",), out=str(tmp_path / "better"),
        train=Settings(epochs=3, batch_size=4, lr=1e-5),
    )  # fmt: skip
    adapt(asked)
    before, after = (AutoModelForCausalLM.from_pretrained(place) for place in (writer, tmp_path / "better"))
    assert {p.dtype for p in before.parameters()} == {p.dtype for p in after.parameters()} == {kind}
    pairs = list(zip(after.parameters(), before.parameters(), strict=True))
    assert any(not torch.equal(now, was) for now, was in pairs)
    wide = replace(asked, model=str(tmp_path / "wide"), out=str(tmp_path / "better32"))
    before.float().save_pretrained(tmp_path / "wide")
    for file in writer.glob("tokenizer*"):
        (tmp_path / "wide" / file.name).write_bytes(file.read_bytes())
    adapt(wide)
    exact = AutoModelForCausalLM.from_pretrained(tmp_path / "better32")
    for found, wanted in zip(after.parameters(), exact.parameters(), strict=True):
        assert torch.equal(found, wanted.to(kind))


def test_settings_are_checked() -> None:
    for change, words in (({"lr": 0.0}, "lr is 0.0"), ({"epochs": 0}, "epochs"), ({"precision": "fp4"}, "fp4"),
                          ({"optimizer": "adamm"}, "adamm")):  # fmt: skip
        with pytest.raises(ConfigurationError, match=words):
            replace(TRAIN, **change)


def test_choosing() -> None:
    points = [Point("a", "a", kept=90.0, learned=50.0), Point("b", "b", kept=85.0, learned=70.0),
              Point("c", "c", kept=60.0, learned=80.0), Point("d", "d", kept=80.0, learned=60.0)]  # fmt: skip
    assert [point.name for point in front(points)] == ["a", "b", "c"]
    assert choose(points, 91.0, 2.0) == (points[0], True)
    assert choose(points, 91.0, 6.0) == (points[1], True)
    assert choose(points, 91.0, 0.5) == (points[0], False)
    assert choose(points, 91.0, None) == (points[1], True)
    assert choose(points, None, None) == (points[2], True)
    words = [Point("a", "a", kept=-2.0, learned=-3.0), Point("b", "b", kept=-2.5, learned=-2.0)]
    assert choose(words, -2.0, 10.0)[0].name == "a" and choose(words, -2.0, 30.0)[0].name == "b"


def test_points_tell_what_they_are(place: Path) -> None:
    adapt(Asked(model="mine:make", data="new", keep="old", methods=("finetune",), out="better", train=TRAIN))
    plain = json.loads((place / "better" / "candidates.json").read_text())
    assert plain["before"] == 100.0 and plain["chosen"]["method"] == "finetune" and len(plain["curve"]) == 11


def test_a_class_of_which_nothing_is_known(place: Path) -> None:
    with pytest.raises(DataError, match="has classes left, right that mine:make lacks"):
        from holdfast.adapt.comparing import audit_of

        audit_of("mine:make", "mine:make", ["new"])
