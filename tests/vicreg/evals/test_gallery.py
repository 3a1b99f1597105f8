"""The gallery: neighbours as a plain search finds them, a map that keeps classes together, the pictures themselves."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from dataprep.beton.contract import open_beton
from tests.ranks import run_ranks
from tests.vicreg.evals.small_splits import coloured_noise
from vicreg.config import DataConfig
from vicreg.evals import gallery
from vicreg.evals.features import Features, Pixels, Splits, open_splits

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(digits_folder: Path) -> DataConfig:
    """The digits at 8 px, their own size."""
    train, val = (str(digits_folder / f"{split}.beton") for split in ("train", "val"))
    return DataConfig(train=train, val=val, image_size=8, eval_resize=8)


def measure(data: DataConfig) -> dict[str, Any]:
    """The gallery of the digits' pixels."""
    splits = Splits(data, num_classes=10, device=CPU, workers=1, batch=32)
    measured = gallery.evaluate(Pixels(8), splits, gallery.Config(images=120))
    assert measured.metrics == {}
    return measured.details


@pytest.fixture(scope="module")
def shown(digits: DataConfig) -> dict[str, Any]:
    """What one process finds."""
    return measure(digits)


def _tiles(sheet: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """The pictures of a sheet, row by row."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet["jpeg"]))))
    side = sheet["side_px"]
    assert pixels.shape == (sheet["rows"] * side, sheet["columns"] * side, 3)
    return [tile for band in np.split(pixels, sheet["rows"]) for tile in np.split(band, sheet["columns"], axis=1)]


def test_neighbours_are_those_of_a_plain_search(digits: DataConfig, shown: dict[str, Any]) -> None:
    splits = open_splits(digits, CPU, 1)
    train, val = (splits.features(Pixels(8), name).values.double().numpy() for name in ("train", "val"))
    cosines = (val / np.linalg.norm(val, axis=1, keepdims=True)) @ (train / np.linalg.norm(train, axis=1)[:, None]).T
    labels = open_beton(Path(digits.train)).labels
    found = shown["neighbours"]
    assert len(found["samples"]) == 12
    for query, samples, classes, values in zip(
        found["samples"], found["train_samples"], found["train_labels"], found["cosines"], strict=True
    ):
        assert samples == np.argsort(-cosines[query], kind="stable")[:6].tolist()
        assert classes == labels[samples].tolist()
        np.testing.assert_allclose(values, cosines[query][samples], atol=1e-4)


def test_queries_are_of_all_classes(digits: DataConfig, shown: dict[str, Any]) -> None:
    labels = open_beton(Path(digits.val)).labels
    assert shown["neighbours"]["labels"] == labels[shown["neighbours"]["samples"]].tolist()
    assert set(shown["neighbours"]["labels"]) == set(range(10))


def test_the_map_keeps_classes_together(digits: DataConfig, shown: dict[str, Any]) -> None:
    content = shown["map"]
    places, labels = np.stack([content["x"], content["y"]], axis=1), np.array(content["labels"])
    assert (content["samples"][0], content["samples"][-1], len(content["samples"])) == (1, 358, 120)
    assert labels.tolist() == open_beton(Path(digits.val)).labels[content["samples"]].tolist()
    assert places.min() >= 0
    assert places.max() == 1
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(120)
    nearest_has_same_class = float((labels[distances.argmin(axis=1)] == labels).mean())
    assert nearest_has_same_class > 0.8  # one in ten by chance
    assert shown["num_val"] == 360


def test_pictures_are_those_of_the_samples(digits: DataConfig, shown: dict[str, Any]) -> None:
    train, val = open_beton(Path(digits.train)), open_beton(Path(digits.val))
    small, large = _tiles(shown["map"]["sheet"]), _tiles(shown["neighbours"]["sheet"])
    for number in (0, 57, 119):
        original = val.decode(shown["map"]["samples"][number]).astype(float)
        reduced = small[number].reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
        assert np.abs(reduced - original).mean() < 20
        assert np.corrcoef(reduced.ravel(), original.ravel())[0, 1] > 0.95
    first = shown["neighbours"]["train_samples"][2][3]
    reduced = large[2 * 7 + 4].reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    assert np.corrcoef(reduced.ravel(), train.decode(first).astype(float).ravel())[0, 1] > 0.95


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_show_the_same(num_ranks: int, digits: DataConfig, shown: dict[str, Any], tmp_path: Path) -> None:
    assert run_ranks(measure, num_ranks, tmp_path, digits) == shown


def test_the_size_is_bounded_whatever_the_pictures() -> None:
    random = np.random.default_rng(0)

    def noise(number: int, side: int) -> list[Image.Image]:
        return [Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(number)]

    most = gallery.Config()
    sheets = (
        gallery.contact_sheet(noise(most.images, 32)),
        gallery.contact_sheet(noise(most.queries * (most.neighbours + 1), 64), 7),
    )
    assert sum(len(sheet["jpeg"]) for sheet in sheets) < 1_200_000  # places and labels are under 0.1 MB
    with pytest.raises(ValueError, match="images is 1001, allowed: 3 to 1000"):
        gallery.Config(images=1001)
    with pytest.raises(ValueError, match="queries is 13"):
        gallery.Config(queries=13)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Three validation images and seven training images of three classes."""
    return coloured_noise(tmp_path_factory.mktemp("few"), 7, 3, 3, signal=1.0)


def test_few_images_and_names_of_the_manifest(few: DataConfig) -> None:
    details = gallery.evaluate(Pixels(8), open_splits(few, CPU, 1), gallery.Config()).details
    assert details["classes"] == {"0": "class_0", "1": "class_1", "2": "class_2"}
    assert len(details["map"]["x"]) == 3
    assert len(details["neighbours"]["samples"]) == 3
    with pytest.raises(ValueError, match="neighbours is 6, allowed: up to 5"):
        gallery.evaluate(*_with_features(few, np.eye(5, 8), np.eye(3, 8)), gallery.Config())


def test_without_a_manifest_classes_are_numbers(few: DataConfig, tmp_path: Path) -> None:
    moved = replace(few, train=str(tmp_path / "train.beton"))
    Path(moved.train).write_bytes(Path(few.train).read_bytes())
    details = gallery.evaluate(Pixels(8), open_splits(moved, CPU, 1), gallery.Config()).details
    assert details["classes"] == {"0": "0", "1": "1", "2": "2"}


def _with_features(data: DataConfig, train: NDArray[np.float64], val: NDArray[np.float64]) -> tuple[nn.Module, Splits]:
    """An encoder and splits for which these are the features of as many images."""
    encoder, splits = nn.Identity(), open_splits(data, CPU, 1)
    splits._kept[encoder] = {"train": _features(train), "val": _features(val)}
    return encoder, splits


def _features(values: NDArray[np.float64]) -> Features:
    return Features(torch.from_numpy(values.astype(np.float32)), torch.arange(len(values)) % 3, (0, len(values)))


def test_a_collapsed_encoder_has_a_map_of_one_point(few: DataConfig) -> None:
    details = gallery.evaluate(*_with_features(few, np.ones((7, 8)), np.ones((3, 8))), gallery.Config()).details
    assert details["map"]["x"] == details["map"]["y"] == [0.5, 0.5, 0.5]
    assert details["neighbours"]["train_samples"] == [[0, 1, 2, 3, 4, 5]] * 3  # all as near: the lower number first
    json.dumps(details, allow_nan=False)


def test_two_images_are_no_map(few: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"val\.beton is .*2 images.*, allowed: 3 or more"):
        gallery.evaluate(*_with_features(few, np.ones((7, 8)), np.ones((2, 8))), gallery.Config())


def test_of_several_classes_the_first_counts() -> None:
    labels = torch.tensor([[-1, 1, 1], [0, -1, 1], [-1, -1, 0]], dtype=torch.int8)
    assert gallery._classes(labels).tolist() == [1, 2, gallery.NO_CLASS]
