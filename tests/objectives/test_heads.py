"""All heads of Transformers that the table names: the objective that ``None`` means is the model's own loss."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from holdfast import EWC, MAS, Classification, LwF, ModelLoss, Objective, Regression, TokenClassification
from holdfast.importance import fisher
from holdfast.objectives import as_objective
from holdfast.objectives import heads as table
from tests.objectives.exceptions import BY_NAME, EXCEPTIONS
from tests.objectives.heads import BY_CONFIGURATION, CASES
from tests.objectives.plain import equal, mean_of
from tests.objectives.tiny import CLIPSEG, ENCODER, SERIES, text, words

transformers.utils.logging.set_verbosity_error()

ALL: dict[str, tuple[str, type[Any], dict[str, Any], Any, type[Objective]]] = {
    **{head: (case[0] + head, *case[1:]) for head, case in CASES.items()},
    **BY_CONFIGURATION,
    **{name: (name, *case) for name, case in EXCEPTIONS.items()},
}
every_head = pytest.mark.parametrize("name", ALL)


pytestmark = [
    pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way:FutureWarning"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),  # Transformers 4.56
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),  # likewise
]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Some models make constants of the default precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def built(name: str) -> tuple[Any, dict[str, Any], type[Objective]]:
    kind, config, settings, batch, objective = ALL[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(configured(kind, config, settings)).double().eval()
    return model, batch(), objective


def configured(kind: str, config: type[Any], settings: dict[str, Any]) -> Any:
    """Configurations that are made of others."""
    if kind == "EncoderDecoderModel":
        side = transformers.BertConfig(**ENCODER)
        found = config.from_encoder_decoder_configs(side, side)
        found.decoder_start_token_id, found.pad_token_id = 1, 0
        return found
    return config(**settings)


def test_every_head_of_the_table_has_its_model() -> None:
    assert set(CASES) == set(table.HEADS)
    assert set(EXCEPTIONS) | set(BY_NAME) == set(table.EXCEPTIONS)


def nameless(kind: str) -> Any:
    """A model of that class without anything in it."""
    found = getattr(transformers, kind)
    model = found.__new__(found)
    nn.Module.__init__(model)
    model.config = types.SimpleNamespace(is_encoder_decoder=False)
    return model


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_known_by_its_name(name: str) -> None:
    if not hasattr(transformers, name):
        pytest.skip(f"Transformers {transformers.__version__} has no {name}")
    assert type(as_objective(None, nameless(name))) is BY_NAME[name]


# What these hold has no head: its outputs are no logits, and what a Classification says to that names what to pass.
HEADLESS = re.compile(r"(Model|Backbone|Decoder|WithHifiGan|_V3)$")


def test_every_class_with_a_head_has_an_objective() -> None:
    """Over all tasks that Transformers itself lists: what the table names, or else the model's own loss."""
    lists = [value for name, value in vars(modeling_auto).items() if re.fullmatch(r"MODEL_FOR_\w+_MAPPING_NAMES", name)]
    listed = [value for each in lists for value in each.values()]
    names = {name for value in listed for name in ([value] if isinstance(value, str) else value)}
    assert len(names) > 500
    kinds = {name: table.kind_of(name) for name in names}
    assert {name for name, kind in kinds.items() if kind is None and not HEADLESS.search(name)} == set()
    known = (*table.HEADS, *table.EXCEPTIONS)
    others = {name: kind for name, kind in kinds.items() if kind is not None and not name.endswith(known)}
    assert "DPTForDepthEstimation" in others
    assert {type(kind(None)) for kind in others.values()} == {ModelLoss}


def test_a_model_that_gives_no_loss_says_so() -> None:
    torch.manual_seed(0)
    settings = {**CLIPSEG, "text_config": {**ENCODER, "eos_token_id": 2, "projection_dim": 4}}
    model = transformers.CLIPSegForImageSegmentation(transformers.CLIPSegConfig(**settings)).double()
    batch = {"pixel_values": torch.randn(2, 3, 8, 8).double(), "input_ids": words()}
    with pytest.raises(ValueError, match=r"ModelLoss expects a 'loss'.*put what it is made from"):
        fisher(model, [batch])


def own_losses(model: Any, batch: dict[str, Any], objective: Objective) -> list[Tensor]:
    """What the model itself says of each sample alone, times what it takes the mean over where a sample adds up."""
    found = []
    for i in range(2):
        one = {key: value[i : i + 1] for key, value in batch.items()}
        number = 1
        if isinstance(objective, Regression):
            number = 0.5 * one["labels"].numel()  # the models take the mean of squares, without a half
        elif "labels" in one and not isinstance(objective, ModelLoss | Classification) and one["labels"].dim() == 2:
            labels = one["labels"][:, 1:] if type(objective).__name__ == "CausalLM" else one["labels"]
            number = int((labels != -100).sum())
        found.append(number * model(**one).loss)
    return found


@every_head
def test_without_an_objective_the_models_own_loss_is_protected(name: str) -> None:
    model, batch, expected = built(name)
    objective = as_objective(None, model)
    assert type(objective) is expected
    kind = "empirical" if "labels" in batch or expected is not Classification else "exact"
    keep = EWC(model, strength=1.0, fisher=kind)
    keep.consolidate([batch])
    found = {key: held["importance"] for key, held in keep.state.items()}
    if kind == "exact":  # a head that is distilled has no labels of its own
        assert any(bool(value.any()) for value in found.values())
        return
    # Some models compute their loss in float32 whatever they are.
    equal(found, mean_of(model, own_losses(model, batch, objective)), rtol=1e-4)


@every_head
def test_the_other_methods_work_or_say_why_not(name: str) -> None:
    model, batch, expected = built(name)
    if expected is ModelLoss:
        with pytest.raises(ValueError, match="have nothing to measure"):
            MAS(model, strength=1.0).consolidate([batch])
        with pytest.raises(ValueError, match="cannot compare the outputs of ModelLoss"):
            LwF(model, strength=1.0).consolidate()
        return
    importance = MAS(model, strength=1.0)
    importance.consolidate([batch])
    assert any(bool(held["importance"].any()) for held in importance.state.values())
    keep = LwF(model, strength=1.0)
    keep.consolidate()
    outputs = model(**batch)
    # Exactly 0, but for T5: with a gradient PyTorch takes another kernel for attention than without.
    assert abs(keep.penalty(batch, outputs).item()) <= (1e-15 if name == "ForConditionalGeneration" else 0.0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    assert keep.penalty(batch).item() > 0


def test_classes_of_ones_own_and_wrappers_are_looked_through() -> None:
    class Tagger(transformers.BertForTokenClassification):
        """Derived from a model of the table."""

    model = Tagger(transformers.BertConfig(**ENCODER, num_labels=3))
    for wrapped in (model, nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert isinstance(as_objective(None, wrapped), TokenClassification)
        assert isinstance(EWC(wrapped, strength=1.0).objective, TokenClassification)


def test_an_adapter_of_peft_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    class PeftModel(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base_model = base

        def get_base_model(self) -> nn.Module:
            return self.base_model

    library = types.ModuleType("peft")
    library.PeftModel = PeftModel
    monkeypatch.setitem(sys.modules, "peft", library)
    model = PeftModel(transformers.BertForTokenClassification(transformers.BertConfig(**ENCODER, num_labels=3)))
    assert isinstance(as_objective(None, model), TokenClassification)


def test_any_other_model_is_a_classification() -> None:
    class FooForTokenClassification(nn.Linear):
        """The name alone makes no model of Transformers."""

    for model in (nn.Linear(2, 2), FooForTokenClassification(2, 2), None):
        assert type(as_objective(None, model)) is Classification
    bare = transformers.BertModel(transformers.BertConfig(**ENCODER))
    assert type(as_objective(None, bare)) is Classification


def test_a_contrastive_model_says_what_to_use() -> None:
    side = {key: value for key, value in ENCODER.items() if key not in ("vocab_size", "max_position_embeddings")}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**ENCODER, "eos_token_id": 2, "projection_dim": 4},
        vision_config={**side, "image_size": 8, "patch_size": 4, "projection_dim": 4},
        projection_dim=4,
    )
    model = transformers.CLIPModel(config).double()
    batch = {**text()(), "pixel_values": torch.randn(2, 3, 8, 8).double(), "return_loss": True}
    with pytest.raises(ValueError, match=r"ModelLoss\(\)"):
        fisher(model, [batch])
    with pytest.raises(ValueError, match=r"ModelLoss\(per='batch'\)"):
        fisher(model, [batch], objective=ModelLoss())
    model.eval()
    equal(fisher(model, [batch], objective=ModelLoss(per="batch")), mean_of(model, [model(**batch).loss]))


def test_llama_sees_packed_rows_as_rows() -> None:
    """The model keeps packed sequences apart by where their places start again, and so does the objective."""
    torch.manual_seed(0)
    settings = {**ENCODER, "num_key_value_heads": 2, "pad_token_id": 0, "use_cache": False}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).double().eval()
    ids = words(4)
    rows = {"input_ids": ids, "labels": ids}
    packed = {"input_ids": ids.view(1, 8), "labels": ids.view(1, 8), "position_ids": torch.arange(4).repeat(2)[None]}
    for kind in ("empirical", "mas"):
        found = []
        for batch in (rows, packed):
            keep = MAS(model, strength=1.0) if kind == "mas" else EWC(model, strength=1.0, fisher="empirical")
            keep.consolidate([batch])
            found.append({key: held["importance"] for key, held in keep.state.items()})
        equal(found[1], found[0], rtol=1e-5)  # rotations of places are in float32


def test_a_forecasters_output_reaches_a_callable_untouched() -> None:
    torch.manual_seed(0)
    model = transformers.PatchTSTForPrediction(transformers.PatchTSTConfig(**SERIES)).double().eval()
    batch = {"past_values": torch.randn(2, 8, 2).double(), "future_values": torch.randn(2, 2, 2).double()}

    def each(raw: Any, data: Any) -> Tensor:
        assert type(raw).__name__ == "PatchTSTForPredictionOutput"
        return (raw.prediction_outputs - data["future_values"]).square().mean((1, 2))

    losses = list(each(model(**batch), batch))
    equal(fisher(model, [batch], objective=each), mean_of(model, losses))
