"""Named data sets: decoded exactly, kept on disk, and refused in one sentence when they cannot be read."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.bench.data import cache, digits
from holdfast.bench.data import named as data
from holdfast.bench.data.splitting import holdout
from holdfast.bench.records import seeding
from holdfast.errors import ConfigurationError, DataError, DependencyError

datasets = pytest.importorskip("datasets", reason="the bench's packages are not installed")
PIL_Image = pytest.importorskip("PIL.Image", reason="the bench's packages are not installed")


def write(folder: Path, part: str, columns: dict[str, Any], features: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    frame = datasets.Dataset.from_dict(columns, features=features)
    frame.to_parquet(str(folder / f"{part}-00000-of-00001.parquet"))


def write_images(root: Path, name: str, pixels: dict[str, torch.Tensor], column: str = "image") -> None:
    """A folder in the Hub's layout, PNG inside; `pixels` are [N, H, W] or [N, H, W, 3]."""
    datasets.disable_progress_bars()
    features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    for part, values in pixels.items():
        images = [PIL_Image.fromarray(value.numpy()) for value in values]
        write(root / name / name, part, {column: images, "label": [i % 10 for i in range(len(images))]}, features)
    datasets.enable_progress_bars()


@pytest.fixture
def pixels() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "train": torch.randint(0, 256, (12, 28, 28), generator=draw, dtype=torch.uint8),
        "test": torch.randint(0, 256, (3, 28, 28), generator=draw, dtype=torch.uint8),
    }


def test_a_folder_is_decoded_pixel_for_pixel_without_the_network(
    tmp_path: Path, pixels: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, "mnist", pixels)
    capfd.readouterr()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = data.load("mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert torch.equal(loaded.train_x, pixels["train"].unsqueeze(1))
    assert torch.equal(loaded.test_x, pixels["test"].unsqueeze(1))
    assert loaded.train_y.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert loaded.train_y.dtype == torch.int64 and loaded.train_x.dtype == torch.uint8
    assert loaded.num_classes == 10
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_colour_images_keep_their_channels(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    pixels = {
        part: torch.randint(0, 256, (2, 32, 32, 3), generator=draw, dtype=torch.uint8) for part in ("train", "test")
    }
    write_images(tmp_path, "cifar10", pixels, column="img")
    loaded = data.load("cifar10", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert loaded.train_x.shape == (2, 3, 32, 32)
    assert torch.equal(loaded.train_x[1, 2], pixels["train"][1, :, :, 2])


def test_the_environment_names_the_folder_and_the_cache(
    tmp_path: Path, pixels: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "data", "fashion_mnist", pixels)
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    assert len(data.load("fashion_mnist").train_y) == 12
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]
    monkeypatch.delenv("HOLDFAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default_directory() == tmp_path / "xdg" / "holdfast"


def test_the_second_read_comes_from_the_cache_until_the_files_change(
    tmp_path: Path, pixels: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, "mnist", pixels)
    kept = tmp_path / "cache"
    first = data.load("mnist", data_dir=tmp_path, cache_dir=kept)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("decoded again"))
        again = data.load("mnist", data_dir=tmp_path, cache_dir=kept)
    assert torch.equal(first.train_x, again.train_x) and torch.equal(first.test_y, again.test_y)
    write_images(tmp_path, "mnist", {"train": pixels["train"].flip(0), "test": pixels["test"]})
    changed = data.load("mnist", data_dir=tmp_path, cache_dir=kept)
    assert torch.equal(changed.train_x, pixels["train"].flip(0).unsqueeze(1))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text"])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, pixels: dict[str, torch.Tensor], damage: str) -> None:
    write_images(tmp_path, "mnist", pixels)
    kept = tmp_path / "cache"
    data.load("mnist", data_dir=tmp_path, cache_dir=kept)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    position = len(whole) // 2
    broken = {
        "truncated": whole[:position],
        "flipped": whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
        "text": b"not a cache",
    }[damage]
    file.write_bytes(broken)
    loaded = data.load("mnist", data_dir=tmp_path, cache_dir=kept)
    assert torch.equal(loaded.train_x, pixels["train"].unsqueeze(1))
    assert file.read_bytes() == whole
    assert list(kept.iterdir()) == [file]


def test_an_unwritable_cache_is_said_and_costs_only_time(tmp_path: Path, pixels: dict[str, torch.Tensor]) -> None:
    write_images(tmp_path, "mnist", pixels)
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="HOLDFAST_CACHE"):
        loaded = data.load("mnist", data_dir=tmp_path, cache_dir=tmp_path / "file" / "below")
    assert len(loaded.train_y) == 12


def test_texts_come_back_as_written(tmp_path: Path) -> None:
    texts = ["profit rose", "", "größer: 1 €"]
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(num_classes=3)})
    datasets.disable_progress_bars()
    write(tmp_path / "financial_phrasebank" / "all", "train", {"sentence": texts, "label": [2, 1, 0]}, features)
    datasets.enable_progress_bars()
    for _ in range(2):  # decoded, then from the cache
        loaded = data.load_text("financial_phrasebank", data_dir=tmp_path, cache_dir=tmp_path / "cache")
        assert loaded.train_texts == tuple(texts)
        assert loaded.train_y.tolist() == [2, 1, 0]
        assert loaded.test_texts == () and loaded.test_y.shape == (0,)
        assert loaded.class_names == ("negative", "neutral", "positive")


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'fashion-mnist'; the nearest are fashion_mnist"):
        data.load("fashion-mnist")
    with pytest.raises(ConfigurationError, match="there are digits, mnist"):
        data.load("zzz")
    with pytest.raises(ConfigurationError, match="'imdb' holds texts; expected one of images"):
        data.load("imdb")
    with pytest.raises(ConfigurationError, match="'digits' holds images"):
        data.load_text("digits")


def test_a_missing_data_set_is_refused_with_both_ways_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        DataError, match=r"no data set 'mnist' in .*HOLDFAST_DATA.*hf download ylecun/mnist .*connection"
    ):
        data.load("mnist", data_dir=tmp_path)

    def offline(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"Couldn't reach the Hub.*HOLDFAST_DATA.*refs/convert/parquet") as caught:
        data.load_text("financial_phrasebank", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert "unset it" not in str(caught.value)  # it is not set
    assert "Retrying" not in caplog.text
    assert logging.getLogger("huggingface_hub").level != logging.ERROR
    assert not datasets.are_progress_bars_disabled()


def test_the_hub_is_asked_for_the_right_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(*args: object, **kwargs: object) -> Any:
        asked.append((args, kwargs))
        return {"train": datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})} | {
            "test": datasets.Dataset.from_dict({"text": ["c"], "label": [1]})
        }

    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", answer)
    assert data.load_text("imdb", cache_dir=tmp_path).test_texts == ("c",)
    assert data.load_text("imdb", cache_dir=tmp_path).train_texts == ("a", "b")
    assert asked == [(("stanfordnlp/imdb",), {})]


def test_rows_that_do_not_fit_are_named(tmp_path: Path, pixels: dict[str, torch.Tensor]) -> None:
    write_images(tmp_path / "column", "mnist", pixels, column="picture")
    with pytest.raises(DataError, match="no column image; found picture, label"):
        data.load("mnist", data_dir=tmp_path / "column", cache_dir=tmp_path / "cache")
    write_images(tmp_path / "size", "mnist", {part: values[:, 1:] for part, values in pixels.items()})
    with pytest.raises(DataError, match="28x28 pixels, found one of 28x27"):
        data.load("mnist", data_dir=tmp_path / "size", cache_dir=tmp_path / "cache")
    write_images(tmp_path / "part", "mnist", {"train": pixels["train"]})
    with pytest.raises(DataError, match="no part 'test'; found train"):
        data.load("mnist", data_dir=tmp_path / "part", cache_dir=tmp_path / "cache")


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    for package in ("datasets", "sklearn"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=r'pip install "holdfast\[bench\]"'):
        data.load("mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(DependencyError, match=r'pip install "holdfast\[bench\]"'):
        data.load("digits")


def test_digits_are_read_as_scikit_learn_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for quick, own in zip(digits._read(), digits._imported(), strict=True):
        assert torch.equal(quick, own) and quick.dtype == own.dtype
    monkeypatch.setattr(digits, "_FILE", Path("gone.csv.gz"))
    assert torch.equal(digits._read()[0], digits._imported()[0])


def test_digits_are_scikit_learns_and_split_evenly() -> None:
    from sklearn.datasets import load_digits

    loaded = data.load("digits")
    assert loaded.train_x.shape == (1438, 1, 8, 8) and loaded.test_x.shape == (359, 1, 8, 8)
    bundle = load_digits()
    original = sorted(
        (int(y), [round(v * 255 / 16) for v in x]) for x, y in zip(bundle.data.tolist(), bundle.target, strict=True)
    )
    both = torch.cat([loaded.train_x, loaded.test_x]).flatten(1).tolist()
    assert sorted(zip(torch.cat([loaded.train_y, loaded.test_y]).tolist(), both, strict=True)) == original
    share = loaded.test_y.bincount() / (loaded.test_y.bincount() + loaded.train_y.bincount())
    assert (share - 0.2).abs().max() < 0.005
    scaled = loaded.train_x.float() / 255
    assert scaled.mean().item() == pytest.approx(loaded.mean[0], abs=1e-3)
    assert scaled.std().item() == pytest.approx(loaded.std[0], abs=1e-3)
    assert torch.equal(loaded.train_x, data.load("digits").train_x)


def test_holdout_is_stratified_seeded_and_keeps_the_order() -> None:
    labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 2 + [3])
    stays, aside = holdout(labels, 0.1, seeding.generator(0, "x"))
    assert labels[aside].bincount(minlength=4).tolist() == [2, 1, 1, 0]
    assert sorted([*stays.tolist(), *aside.tolist()]) == list(range(33))
    assert stays.tolist() == sorted(stays.tolist()) and aside.tolist() == sorted(aside.tolist())
    assert torch.equal(aside, holdout(labels, 0.1, seeding.generator(0, "x"))[1])
    assert not torch.equal(aside, holdout(labels, 0.1, seeding.generator(1, "x"))[1])
    assert len(holdout(labels, 0.0, seeding.generator(0))[1]) == 0
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigurationError, match="at least 0 and less than 1"):
            holdout(labels, wrong, seeding.generator(0))


def test_every_purpose_has_a_seed_of_its_own() -> None:
    seeds = {seeding.derive_seed(seed, purpose, task) for seed in range(3) for purpose in "ab" for task in range(3)}
    assert len(seeds) == 18
    assert seeding.derive_seed(0, "validation", 1) == seeding.derive_seed(0, "validation", 1)
    assert seeding.generator(5, "x").initial_seed() == seeding.derive_seed(5, "x")


@pytest.mark.usefixtures("holdfast_data")
@pytest.mark.parametrize(
    ("name", "counts", "first"),
    [
        ("mnist", (60_000, 10_000), [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]),
        ("fashion_mnist", (60_000, 10_000), None),
        ("cifar10", (50_000, 10_000), None),
    ],
)
def test_real_images(name: str, counts: tuple[int, int], first: list[int] | None) -> None:
    loaded = data.load(name)
    assert (len(loaded.train_x), len(loaded.test_x)) == counts
    assert loaded.test_y.bincount().min() >= 800
    scaled = loaded.train_x[::7].float() / 255
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.tensor(loaded.mean), atol=5e-3)
    assert torch.allclose(scaled.std((0, 2, 3)), torch.tensor(loaded.std), atol=5e-3)
    assert first is None or loaded.train_y[:10].tolist() == first


@pytest.mark.usefixtures("holdfast_data")
def test_real_texts() -> None:
    reviews, news = data.load_text("imdb"), data.load_text("financial_phrasebank")
    assert len(reviews.train_texts) == len(reviews.test_texts) == 25_000
    assert reviews.train_y.bincount().tolist() == [12_500, 12_500]
    assert len(news.train_texts) == 4846 and news.train_y.bincount().tolist() == [604, 2879, 1363]
