"""A head is built again from its file alone, to the last bit, and goes on learning; what is no head is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast import ConfigurationError, ProtectionError, StateError, heads, save_state
from holdfast.heads import (
    NCM,
    SLDA,
    FeCAM,
    Head,
    LwPK,
    RandomFourier,
    RandomPatches,
    RandomProjection,
    Ridge,
    TransportCalibrated,
)
from tests.heads.cases import samples, tell
from tests.heads.test_features import Net

MADE = {
    "ncm": lambda: NCM(dtype=torch.float32),
    "slda": lambda: SLDA(shrinkage=0.3, relative=True, prior=True),
    "slda auto, projection": lambda: SLDA(expand=RandomProjection(20, seed=4), shrinkage="auto"),
    "ridge, fourier": lambda: Ridge(RandomFourier(20, width=0.7, seed=2)),
    "ridge number": lambda: Ridge(strength=0.2, relative=True),
    "lwpk": lambda: LwPK(scale=4.0, omega=0.5),
    "fecam": lambda: FeCAM(shrinkage=0.5, tukey=1),
    "h-ot": lambda: TransportCalibrated(tukey=0, share=0.5, base_samples=12, keep=12, draws=30, levels=1, seed=3),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_it_comes_back_and_learns_on(make, tmp_path):
    x, y = samples()
    head = tell(make(), x[:50], y[:50])
    again = heads.load(heads.save(head, tmp_path / "head.safetensors"))
    assert type(again) is type(head) and torch.equal(again(x), head(x))
    for each in (head, again):
        tell(each, x[50:], y[50:])
    assert torch.equal(again(x), head(x)) and again.num_tasks == 2
    empty = heads.load(heads.save(make(), tmp_path / "empty.safetensors"))
    assert torch.equal(tell(empty, x[:50], y[:50])(x), tell(make(), x[:50], y[:50])(x))


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_patches_come_back_with_their_whitening(threshold, tmp_path):
    x, y = torch.rand(12, 1, 9, 9), torch.arange(12) % 3
    head = SLDA(RandomPatches(3, patch=4, pool=2, threshold=threshold, floor=0.2, damping=0.3, seed=5), shrinkage=0.1)
    head.consolidate([(x, y)])
    again = heads.load(heads.save(head, tmp_path / "head"))
    assert torch.equal(again(x), head(x)) and vars(again.expand).keys() == vars(head.expand).keys()
    assert again.expand.threshold == threshold and again.expand.seed == 5


def test_a_head_on_a_model_wants_that_model(tmp_path):
    x, y = samples()
    model = Net().double().eval()
    head = tell(SLDA(model, layer="body", shrinkage=0.1), x, y)
    path = heads.save(head, tmp_path / "head.safetensors")
    assert torch.equal(heads.load(path, model)(x), head(x))
    with pytest.raises(ConfigurationError, match="stands on the features of a model, and features is None"):
        heads.load(path)
    with pytest.raises(ProtectionError, match=r"body\.0\.weight"):
        heads.load(path, Net().double())
    own = heads.save(tell(NCM(), x, y), tmp_path / "own.safetensors")
    with pytest.raises(ConfigurationError, match="stands on its inputs"):
        heads.load(own, model)


def test_what_is_no_head_is_refused(tmp_path):
    class Own(NCM):
        pass

    with pytest.raises(ConfigurationError, match=r"Own is none of NCM, LwPK, SLDA, Ridge, FeCAM, TransportCalibrated"):
        heads.save(Own(), tmp_path / "own")
    with pytest.raises(StateError, match="holds no head"):
        heads.load(save_state({"a": 1}, tmp_path / "other"))
    with pytest.raises(StateError, match="Cannot read"):
        heads.load(tmp_path / "missing")
    x, y = samples()
    content = heads.saving.load_state(heads.save(tell(NCM(), x, y), tmp_path / "head"))
    for change, text in (
        ({"kind": "Cat"}, "names a head or a feature map that is none of"),
        ({"settings": {"size": 3}}, "names a head or a feature map"),
        ({"expand": {"kind": "NCM", "settings": {}}}, "none of RandomProjection"),
        ({"dtype": "bfloat16"}, "holds no head"),
        ({"kind": "SLDA", "settings": {}}, "state is of NCM"),
        ({"state": {}}, "holds no state of NCM"),
        ({"state": {"_extra_state": 3}}, r"what NCM\.state_dict\(\) returns"),
    ):
        with pytest.raises(StateError, match=text):
            heads.load(save_state({**content, **change}, tmp_path / "changed"))


def test_every_argument_is_in_the_file():
    """What a head of ours is built with, and nothing else: a new argument must be saved, too."""
    import inspect

    general = {"features", "layer", "expand", "objective", "dtype", "self"}
    for known in (heads.saving._HEADS, heads.saving._MAPS):
        for kind, names in known.items():
            assert set(inspect.signature(kind).parameters) - general == set(names), kind
    assert all(issubclass(kind, Head) for kind in heads.saving._HEADS)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope: dict[str, object] = {}
    exec(code, scope)  # the page is ours
    assert isinstance(scope["again"], nn.Module) and scope["again"].classes == (0, 1, 2, 3)
