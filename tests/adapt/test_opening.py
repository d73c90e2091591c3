"""A model of one's own, whatever it comes from: grown, written and read again, it is the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.adapt.last import grown
from holdfast.adapt.opening import open_model
from holdfast.bench.data import found
from holdfast.bench.data.parts import Part
from holdfast.errors import ConfigurationError, DataError, DependencyError, StateError
from tests.adapt.torchvision_stub import torchvision


def test_growing_keeps_what_was_there() -> None:
    old = nn.Linear(5, 3)
    new = grown(old, 5, torch.Generator().manual_seed(0))
    x = torch.randn(4, 5)
    assert torch.equal(new(x)[:, :3], old(x))
    assert torch.equal(new.bias[3:], old.bias.mean().expand(2))
    assert new.weight[3:].std() < 3 * old.weight.std()


def image(size: tuple[int, int] = (9, 7)):
    from PIL import Image

    return Image.new("RGB", size, (200, 30, 90))


def round_trip(opened, samples, folder: Path):
    """The same answers after growing, writing and reading."""
    inputs = opened.inputs(samples)

    def answers(of):
        out = of.model.eval()(**inputs) if isinstance(inputs, dict) else of.model.eval()(inputs)
        return out if isinstance(out, torch.Tensor) else out.logits

    with torch.no_grad():
        before = answers(opened)
        opened.grow(["further"])
        grown_answers = answers(opened)
        opened.write(folder)
        again = opened.reopened(folder)
        assert torch.equal(grown_answers[:, :-1], before)
        assert torch.equal(answers(again), grown_answers)
    assert again.classes == opened.classes and again.classes[-1] == "further" and again.kind == opened.kind
    return again


def test_a_factory(place: Path) -> None:
    again = round_trip(open_model("mine:make"), [image()], place / "out")
    assert again.classes == ("dark", "bright", "further")
    assert open_model(str(place / "out")).classes == again.classes
    (place / "out" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(StateError, match="holds no adapted model"):
        open_model(str(place / "out"))


def test_a_text_classifier(sentiment: Path, tmp_path: Path) -> None:
    round_trip(open_model(str(sentiment)), ["good film", "bad"], tmp_path / "out")


def test_an_image_classifier_of_transformers(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    assert open_model(str(tmp_path / "vit")).classes == ("cat", "dog")
    round_trip(open_model(str(tmp_path / "vit")), [image()], tmp_path / "out")


def test_a_model_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    if "timm" not in sys.modules:
        import importlib.util

        if importlib.util.find_spec("timm") is None:
            pytest.skip("timm is not installed")
    with torchvision():
        import timm
        from timm.models import save_for_hf

        model = timm.create_model("resnet10t", pretrained=False, num_classes=2)
        about = {**model.pretrained_cfg, "label_names": ["cat", "dog"], "num_classes": 2, "input_size": (3, 32, 32)}
        save_for_hf(model, str(tmp_path / "t"), model_config={"pretrained_cfg": about}, safe_serialization=True)
        opened = open_model(f"timm:local-dir:{tmp_path / 't'}")
        assert opened.classes == ("cat", "dog") and opened.named
        round_trip(opened, [image()], tmp_path / "out")
        with pytest.raises(ConfigurationError, match="timm does not have; the nearest are"):
            open_model("timm:no_such_model")


def test_an_export_of_ours(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from holdfast.cli import app

    def run(*words: str) -> None:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output

    run("run", "split-digits", "--method", "finetune", "--scenario", "class", "--model", "mlp-8", "--epochs", "1",
        "--keep-weights", "--out", str(tmp_path / "runs"))  # fmt: skip
    run("export", str(next((tmp_path / "runs" / "records").glob("*.json"))), str(tmp_path / "export"))
    opened = open_model(str(tmp_path / "export"))
    assert opened.kind == "images" and len(opened.classes) == 10
    round_trip(opened, [image()], tmp_path / "out")


def test_names_where_the_model_has_none(place: Path) -> None:
    assert not open_model("mine:unnamed").named
    assert open_model("mine:unnamed", classes=["a", "b"]).classes == ("a", "b")


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    BertForMaskedLM(
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    ).save_pretrained(tmp_path / "masked")
    with pytest.raises(ConfigurationError, match="is BertForMaskedLM; expected an image classifier"):
        open_model(str(tmp_path / "masked"))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"num_labels": 1}, "answers with a number"),
        ({"num_labels": 3, "problem_type": "regression"}, "answers with numbers"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "answers with several classes at once"),
    ],
)
def test_what_is_no_classifier_of_one_class_is_refused(sentiment: Path, said: dict, words: str) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(sentiment)
    for key, value in said.items():
        setattr(config, key, value)
    BertForSequenceClassification(config).save_pretrained(sentiment)
    with pytest.raises(ConfigurationError, match=words):
        open_model(str(sentiment), classes=["a"])


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch, caplog, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(ConfigurationError, match="there is no such folder, and the hub cannot be reached"):
        open_model("some/model")
    with pytest.raises(DataError, match=r"there is no folder or file some/data, and .* the Hub cannot be reached"):
        found.read("some/data")
    assert not caplog.records and constants.HF_HUB_OFFLINE == before


def test_a_factory_whose_layers_share_a_weight(place: Path) -> None:
    again = round_trip(open_model("mine:tied"), [image()], place / "out")
    assert again.model[2].weight is again.model[1].weight


def test_long_texts(writer: Path, sentiment: Path) -> None:
    """Of texts to go on with nothing is lost; of texts to classify it is said how many are cut off."""
    words = ["good", "film", "bad", "stock", "nice", "actor", "price", "ugly", "scene", "fine", "poor"]
    part = Part([" ".join(words), "good film"], [], ["1", "2"])
    opened = open_model(str(writer))
    pieces, said = opened.fitted(part)
    assert said == "1 of 2 texts are longer than 8 tokens and are read in pieces"
    assert list(pieces.samples) == [" ".join(words[:8]), " ".join(words[8:]), "good film"]
    assert list(pieces.names) == ["1 (1 of 2)", "1 (2 of 2)", "2"]
    ids = opened.inputs(pieces.samples)["input_ids"]
    assert ids[0].tolist() + ids[1, :3].tolist() == opened.processor(" ".join(words))["input_ids"]
    short = open_model(str(writer), length=4)
    assert len(short.fitted(part)[0]) == 4 and short.inputs(part.samples)["input_ids"].shape[1] == 4
    same, said = open_model(str(sentiment)).fitted(Part(part.samples, ["yes", "no"], part.names))
    assert list(same.samples) == list(part.samples) and said == "of 1 of 2 texts only the first 8 tokens are read"
    for length in (1, 9):
        with pytest.raises(ConfigurationError, match=f"length is {length}; .* reads texts of 2 to 8 tokens"):
            open_model(str(writer), length=length)


def test_a_tokenizer_without_a_token_to_fill_up_with(sentiment: Path, tokenizer) -> None:
    import json

    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = sentiment / name
        if path.is_file():
            known = json.loads(path.read_text())
            path.write_text(json.dumps({k: v for k, v in known.items() if k not in ("pad_token", "eos_token")}))
    with pytest.raises(ConfigurationError, match="has neither a pad token nor an end-of-text token"):
        open_model(str(sentiment))


def test_a_torchvision_of_another_pytorch_is_named_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As timm's import ends where torchvision was built for CUDA, and PyTorch was not."""
    (tmp_path / "timm.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyError, match=r"holdfast\[vision\].*\"holdfast doctor\" says.*nms does not exist"):
        open_model("timm:resnet18")
