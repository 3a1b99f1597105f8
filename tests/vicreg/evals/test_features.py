"""Features: every image once, in order; evals/test_ranks.py shows the same bits on any number of ranks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dataprep.beton.contract import Beton, BetonError, open_beton
from tests.vicreg.photos import ROOT
from vicreg.config import DataConfig
from vicreg.evals import knn
from vicreg.evals.data_identity import describe, fingerprint
from vicreg.evals.features import Pixels, _renumbered, open_splits
from vicreg.views.resample import squash_into

CPU = torch.device("cpu")


class Counted(Pixels):
    """Pixels that count the images that pass."""

    num_seen = 0

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        self.num_seen += len(images)
        return super().forward(images)


@pytest.fixture(scope="module")
def digits(digits_folder: Path) -> DataConfig:
    """The digits at 8 px, their own size, not normalised."""
    return DataConfig(
        train=str(digits_folder / "train.beton"),
        val=str(digits_folder / "val.beton"),
        image_size=8,
        eval_resize=8,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def test_the_features_of_pixels_are_the_images_in_order(digits: DataConfig) -> None:
    splits = open_splits(digits, CPU, workers=2)
    features = splits.features(Pixels(8), "val")
    beton = open_beton(Path(digits.val))
    images = np.stack([beton.decode(sample).transpose(2, 0, 1) for sample in range(beton.num_samples)])
    np.testing.assert_allclose(features.values.numpy(), images.reshape(360, -1) / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(features.labels.numpy(), beton.labels)
    assert features.values.dtype == torch.float32
    assert splits.num_classes == 10


def test_normalised_with_mean_and_std(digits: DataConfig) -> None:
    plain = open_splits(digits, CPU, 1).features(Pixels(8), "val").values
    normalised = replace(digits, mean=(0.5, 0.25, 0.0), std=(0.1, 0.2, 0.4))
    found = open_splits(normalised, CPU, 1).features(Pixels(8), "val").values.view(-1, 3, 64)
    expected = (plain.view(-1, 3, 64) - torch.tensor([0.5, 0.25, 0.0])[:, None]) / torch.tensor([0.1, 0.2, 0.4])[
        :, None
    ]
    torch.testing.assert_close(found, expected)


def test_computed_once_for_each_encoder_and_split(digits: DataConfig) -> None:
    splits, encoder = open_splits(digits, CPU, 1), Counted(8)
    first = splits.features(encoder.train(), "val")
    assert splits.features(encoder, "val") is first
    assert encoder.num_seen == 360
    assert splits.features(Counted(8), "val") is not first
    del encoder
    assert len(splits._kept) == 0


def test_rows_come_in_the_order_asked_for(digits: DataConfig) -> None:
    features = open_splits(digits, CPU, 1).features(Pixels(8), "val")
    samples = np.array([359, 3, 3, 200, 0], dtype=np.int64)
    assert torch.equal(features.rows(samples, CPU), features.values[torch.from_numpy(samples)])
    assert torch.equal(features.all_rows(CPU), features.values)


def test_features_that_are_not_finite_are_refused(digits: DataConfig) -> None:
    class Broken(Pixels):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).log()

    with pytest.raises(ValueError, match="not all finite"):
        open_splits(digits, CPU, 1).features(Broken(8), "val")


def test_a_missing_beton_is_named(digits: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(BetonError, match=r"nowhere\.beton: no such file; write it with"):
        open_splits(replace(digits, val=str(tmp_path / "nowhere.beton")), CPU, 1)


def test_labels_unknown_to_the_training_set_are_refused(
    digits: DataConfig, separable_with_fewer_classes: DataConfig
) -> None:
    mixed = replace(digits, train=separable_with_fewer_classes.train)
    said = "does not have: '0', '1', '2', '3', '4' and 5 more; allowed: the training set's, 'class_0'"
    with pytest.raises(ValueError, match=said):
        open_splits(mixed, CPU, 1)


def _with_labels(monkeypatch: pytest.MonkeyPatch, train: NDArray[np.int8], val: NDArray[np.int8]) -> None:
    """Let betons of these names have these labels, whatever is in them."""

    def opened(path: Path) -> Beton:
        return replace(open_beton(path), labels=train if path.name.startswith("train") else val)

    monkeypatch.setattr("vicreg.evals.features.open_beton", opened)


def test_images_of_several_classes(digits: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    train, val = (random.integers(-1, 2, (num, 4), dtype=np.int8) for num in (1437, 360))
    plain = open_splits(digits, CPU, 1)
    _with_labels(monkeypatch, train, val)
    splits = open_splits(digits, CPU, 1)
    assert (splits.num_classes, splits.multi_label, plain.multi_label) == (4, True, False)
    found = splits.features(Pixels(8), "val")
    assert found.labels.dtype == torch.int8
    np.testing.assert_array_equal(found.labels.numpy(), val)
    assert torch.equal(found.values, plain.features(Pixels(8), "val").values)
    splits.require_multi_label(True, "svm")
    plain.require_multi_label(False, "knn")
    with pytest.raises(ValueError, match=r"several of 4 classes, allowed for knn: one class per image; .* is svm"):
        splits.require_multi_label(False, "knn")
    with pytest.raises(
        ValueError, match=r"has one class per image, allowed for svm: .*; .* are linear, knn and few_labels"
    ):
        plain.require_multi_label(True, "svm")


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (np.ones((1437, 4)), np.ones((360, 3)), r"4 numbers per image and .*val\.beton 3 numbers, allowed: the same"),
        (np.ones((1437, 4)), np.ones(360), r"4 numbers per image and .*val\.beton 1 class, allowed: the same"),
        (np.ones(1437), np.ones((360, 2)), r"1 class per image and .*val\.beton 2 numbers, allowed: the same"),
        (np.ones((1437, 4)), np.full((360, 4), 3), r"val\.beton has labels 3, allowed: 1 \(present\), 0 \(diff"),
        (np.full((1437, 4), -2), np.ones((360, 4)), r"train\.beton has labels -2, allowed: 1 \(present\), 0"),
    ],
)
def test_vectors_of_labels_must_fit_together(
    train: NDArray[np.float64],
    val: NDArray[np.float64],
    message: str,
    digits: DataConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _with_labels(monkeypatch, train.astype(np.int8), val.astype(np.int8))
    with pytest.raises(ValueError, match=message):
        open_splits(digits, CPU, 1)


def test_squashed_features_are_of_squashed_images(digits: DataConfig) -> None:
    splits = replace(open_splits(replace(digits, eval_resize=16), CPU, 1), framing="squash")
    beton = open_beton(Path(digits.val))
    images = torch.empty(beton.num_samples, 8, 8, 3, dtype=torch.uint8)
    for sample, image in enumerate(images):
        squash_into(image, beton.decode(sample).copy(), 16)
    found = splits.features(Pixels(8), "val").values
    torch.testing.assert_close(found, images.permute(0, 3, 1, 2).flatten(1) / 255)
    assert not torch.allclose(found, replace(splits, framing="crop").features(Pixels(8), "val").values)


@pytest.fixture(scope="module")
def separable_with_fewer_classes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Two classes."""
    from tests.vicreg.evals.small_splits import coloured_noise

    return coloured_noise(tmp_path_factory.mktemp("two"), 4, 4, 2, signal=1.0)


def test_a_fingerprint_knows_content_and_not_place(digits: DataConfig, tmp_path: Path) -> None:
    original = open_beton(Path(digits.val))
    copy = tmp_path / "moved.beton"
    content = bytearray(Path(digits.val).read_bytes())
    copy.write_bytes(content)
    assert fingerprint(open_beton(copy)) == fingerprint(original)
    content[int(original.pointers[0])] ^= 255
    copy.write_bytes(content)
    assert fingerprint(open_beton(copy)) != fingerprint(original)
    described = describe(digits)
    assert (described["train"]["num_images"], described["val"]["num_images"]) == (1437, 360)


def test_pixels_say_how_many_features_they_have() -> None:
    pixels: nn.Module = Pixels(4)
    assert pixels.num_features == pixels(torch.zeros(2, 3, 4, 4)).shape[1] == 48


def _split(folder: Path, split: str, classes: str) -> str:
    """Ten images of each class, each of which has a colour of its own; returns the beton's path."""
    for name in classes:
        for number in range(10):
            path = folder / split / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), tuple(200 * (name == of) + number for of in "abc")).save(path)
    arguments = ["folder", "--root", str(folder), "--split", split, "--out", str(folder)]
    command = [sys.executable, "dataprep/write_ffcv.py", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return str(folder / f"{split}.beton")


def test_classes_are_matched_by_their_names(tmp_path: Path) -> None:
    """One folder is missing in the validation set, which shifts the numbers of all that follow."""
    data = DataConfig(_split(tmp_path, "train", "abcd"), _split(tmp_path, "val", "bcd"), image_size=8, eval_resize=8)
    splits = open_splits(data, CPU, 1)
    assert (splits.num_classes, splits.val_classes) == (4, (1, 2, 3))
    assert describe(data)["classes"] == {"matched": 3, "of": 4, "without_val_images": ["a"]}
    assert "classes" not in describe(replace(data, val=data.train))
    assert splits.features(Pixels(8), "val").labels.unique().tolist() == [1, 2, 3]
    measured = knn.evaluate(Pixels(8), splits, knn.Config(neighbours=(5,))).metrics
    assert measured["top1_5_neighbours"] == 100.0
    turned = replace(data, train=data.val, val=data.train)
    with pytest.raises(
        ValueError, match=r"train.beton has classes that .*val.beton does not have: 'a'; allowed: .* 'b', 'c'"
    ):
        open_splits(turned, CPU, 1)
    (tmp_path / "val.beton.json").unlink()
    assert open_splits(data, CPU, 1).val_classes == ()  # nothing says how they are called


def test_columns_of_several_classes_are_matched_too() -> None:
    labels = np.array([[1, -1], [0, 1]], np.int8)
    found = _renumbered(labels, (2, 0), 3)
    assert found.tolist() == [[-1, -1, 1], [1, -1, 0]]
    assert _renumbered(labels, (), 2) is labels
