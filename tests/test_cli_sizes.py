"""``holdfast methods --model``: what methods take for a model, of ours or by a configuration of Transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from holdfast import ConfigurationError, registry
from holdfast.bench.models import configured as configurations
from holdfast.cli import sizes

pytest.importorskip("transformers", reason="the extra is not installed")

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32_000, "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
COUNT = 1_100_048_384
TINY = LLAMA | {"vocab_size": 50_000, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}  # fmt: skip


def folder(tmp_path: Path, **settings: object) -> str:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return str(tmp_path)


def printed(
    capsys: pytest.CaptureFixture[str], names: list[str], **asked: object
) -> tuple[str, dict[str, list[float]]]:
    """The heading, and of each method the sizes in MiB."""
    sizes.show(map(registry.lookup, names), sizes.Asked(**asked))
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.replace("MiB", "").replace(",", "").split("│")[1:] for line in lines if "│" in line}
    return lines[0], {name: [float(cell) for cell in cells] for name, cells in rows.items()}


def test_a_language_model_of_a_billion_parameters_is_estimated_by_its_configuration(tmp_path, capsys):
    heading, rows = printed(capsys, ["ewc", "l2sp", "lwf"], model=folder(tmp_path, **LLAMA))
    assert f"{COUNT:,} parameters in bfloat16: weights 2,098.2 MiB, gradients 2,098.2 MiB" in heading
    assert "AdamW 4,196.4 MiB" in heading
    mib = COUNT / 2**20
    assert rows["ewc"][:2] == [pytest.approx(8 * mib, abs=0.1), pytest.approx(6 * mib, abs=0.1)]
    assert rows["l2sp"][:2] == [pytest.approx(4 * mib, abs=0.1)] * 2
    assert rows["lwf"][:2] == [pytest.approx(2 * mib, abs=0.1)] * 2  # a copy of the model


def test_sharded_offloaded_and_in_another_precision(tmp_path, capsys):
    place = folder(tmp_path, **TINY)
    model = configurations.configured(place)
    names = [entry.name for entry in registry.entries() if entry.kind == "method"]
    _, halves = printed(capsys, names, model=place, processes=2, importance_dtype="float32")
    assert "ewc" in halves and "gpm" not in halves
    part = sum(-(-len(p) // 2) * (p.numel() // len(p)) for p in model.parameters())
    assert halves["ewc"][0] == pytest.approx(8 * part / 2**20, abs=0.05)
    _, away = printed(capsys, names, model=place, offloaded=True, importance_dtype="bfloat16")
    assert {"ewc", "si", "anpyc-prune"} <= away.keys() and "lwf" not in away
    assert away["ewc"][1] == 0 and away["si"][1] > 0  # its path changes at every step
    heading, _ = printed(capsys, ["ewc"], model=place, weights="float32")
    assert "parameters in float32" in heading
    with pytest.raises(ConfigurationError, match="CPUOffloadPolicy"):
        printed(capsys, ["ewc"], model=place, offloaded=True, processes=2)


def test_methods_that_change_a_model_leave_it_to_the_others(tmp_path, capsys):
    place = folder(tmp_path, **TINY)
    _, alone = printed(capsys, ["gpm"], model=place)
    _, after = printed(capsys, ["inrank", "efficient-packnet", "gpm"], model=place)
    assert after["gpm"] == alone["gpm"]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (TINY, "LlamaForCausalLM"),
        (TINY | {"architectures": None}, "LlamaForCausalLM"),
        (TINY | {"architectures": ["SomethingOfOnesOwn"]}, "LlamaForCausalLM"),
        ({"model_type": "vit", "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}, "ViTModel"),
        ({"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 8,
          "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}, "BertForSequenceClassification"),
    ],
)  # fmt: skip
def test_the_class_is_what_the_configuration_says_and_nothing_has_memory(settings, kind, tmp_path):
    place = folder(tmp_path, **{key: value for key, value in settings.items() if value is not None})
    for source in (place, f"{place}/config.json"):
        model = configurations.configured(source)
        assert type(model).__name__ == kind
        assert all(p.device.type == "meta" for p in model.parameters())


def test_what_is_no_configuration_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "unknown").mkdir()
    for source, said in (
        (str(tmp_path), "a folder without config.json"),
        (str(tmp_path / "nowhere"), "there is no such folder, and the hub cannot be reached"),
        ("resnet19", "the nearest are resnet18"),
        (folder(tmp_path / "unknown", model_type="nothing-known"), "no configuration that Transformers can read"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            configurations.configured(source)


def test_the_command_prints_each_method_for_a_model(capsys):
    _, rows = printed(capsys, [entry.name for entry in registry.entries()], model="resnet18")
    others = {"fixnorm"} | {entry.name for entry in registry.entries() if entry.needs_adapters}  # not for this model
    assert rows.keys() >= {entry.name for entry in registry.entries()} - others
    mib = 11_689_512 / 2**20
    assert rows["ewc"][:2] == [pytest.approx(8 * mib, abs=0.1), pytest.approx(6 * mib, abs=0.1)]
    assert rows["l2sp"][0] == pytest.approx(4 * mib, abs=0.1)


def test_a_method_that_a_model_does_not_suit_is_said_beside_the_others_and_refused_alone(capsys):
    sizes.show(registry.entries(), sizes.Asked("mlp"))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fixnorm does not suit mlp: no weight of Heads is followed by") for line in lines)
    assert any(line.startswith("ewc ") for line in lines)
    with pytest.raises(ConfigurationError, match="followed by a normalisation"):
        sizes.show([registry.lookup("fixnorm")], sizes.Asked("mlp"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shape": "3,x,1"}, "--input is '3,x,1'"),
        ({"shape": "0"}, "--input is '0'"),
        ({"importance_dtype": "float16"}, "--importance-dtype is 'float16'"),
        ({"weights": "int8"}, "--weights is 'int8'"),
        ({"model": "some/llama", "shape": "3,4"}, "--input and --outputs are for models of ours"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(asked, said):
    with pytest.raises(ConfigurationError, match=said):
        sizes.show(registry.entries(), sizes.Asked(**{"model": "mlp", **asked}))


def test_weights_of_either_precision(capsys):
    heading, rows = printed(capsys, ["ewc"], model="mlp", weights="bfloat16", importance_dtype="float32")
    count = sum(p.numel() for p in sizes._built(sizes.Asked("mlp")).parameters())
    assert "in bfloat16" in heading and rows["ewc"][0] == pytest.approx(8 * count / 2**20, abs=0.1)
    assert torch.bfloat16 not in {p.dtype for p in sizes._built(sizes.Asked("mlp")).parameters()}
