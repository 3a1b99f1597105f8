"""Retrieval beside a loop over all pairs in numpy, with ties, several captions and folds, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dataprep import write_ffcv
from tests.ranks import run_ranks
from vicreg import networks
from vicreg.branches import Branches
from vicreg.config import DataConfig, ModelConfig, PretrainConfig
from vicreg.evals import protocols, retrieval
from vicreg.evals.features import open_splits
from vicreg.evals.results import CannotMeasure, Measured
from vicreg.exchange.pair import Pair
from vicreg.method import TrainingData
from vicreg.methods import vicreg
from vicreg.presets import CAPTION_VIEW
from vicreg.views.captions import word_number

CPU = torch.device("cpu")
WORDS = tuple(sorted(word_number(word) for word in ("one", "two", "three", "four", "five", "six", "seven")))


def _slow(images: NDArray[np.float64], captions: NDArray[np.float64], owners: list[int]) -> dict[str, list[int]]:
    """Places, from 0, found pair by pair: the wrong ones that are at least as similar as the best right one."""

    def cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        return float(np.float32(np.dot(one, other) / np.sqrt(np.dot(one, one) * np.dot(other, other))))

    places: dict[str, list[int]] = {"image_to_text": [], "text_to_image": []}
    for number, image in enumerate(images):
        best = max(cosine(image, caption) for caption, owner in zip(captions, owners, strict=True) if owner == number)
        wrong = [c for c, owner in zip(captions, owners, strict=True) if owner != number]
        places["image_to_text"].append(sum(cosine(image, caption) >= best for caption in wrong))
    for caption, owner in zip(captions, owners, strict=True):
        own = cosine(images[owner], caption)
        others = [image for number, image in enumerate(images) if number != owner]
        places["text_to_image"].append(sum(cosine(image, caption) >= own for image in others))
    return places


def test_places_are_those_of_a_loop_and_ties_count_against() -> None:
    rng = np.random.default_rng(0)
    owners = [0, 0, 1, 2, 2, 2, 3, 4, 4]
    images = rng.normal(size=(5, 3))
    captions = images[owners] + rng.normal(size=(9, 3))
    captions[6] = captions[0]  # the same words for two images
    units = [torch.nn.functional.normalize(torch.from_numpy(rows)) for rows in (images, captions)]
    found = retrieval._Found(units[0], units[1], torch.tensor(owners))
    expected = _slow(images, captions, owners)
    of_images, of_captions = retrieval._places(found)
    assert of_images.tolist() == expected["image_to_text"]
    assert of_captions.tolist() == expected["text_to_image"]
    measured = retrieval._measure(found, retrieval.Config(recalls=(1, 2)))
    assert measured["text_to_image_r2"] == pytest.approx(100 * np.mean(np.array(expected["text_to_image"]) < 2))
    same = retrieval._Found(torch.ones(4, 2).double(), torch.ones(4, 2).double(), torch.arange(4))
    assert retrieval._measure(same, retrieval.Config(recalls=(1, 3))) == {
        f"{way}_r{k}": 0.0 for way in ("image_to_text", "text_to_image") for k in (1, 3)
    }


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Betons of 30 and 23 spelled-out numbers."""
    folder = tmp_path_factory.mktemp("numbers")
    for split, limit in (("train", "30"), ("val", "23")):
        options = ["digits", "--captions", "--split", split, "--limit", limit, "--num-workers", "0"]
        assert write_ffcv.main([*options, "--out", str(folder)]) == 0
    return DataConfig(str(folder / "train.beton"), str(folder / "val.beton"), image_size=16, eval_resize=16)


def _pair(data: DataConfig) -> Pair:
    model = ModelConfig("resnet10-narrow", True, "16", encoder_b="gru-8-12", num_words=len(WORDS))
    config = PretrainConfig(vicreg.Config(), data=data, views=(CAPTION_VIEW,), model=model)
    torch.manual_seed(2)
    method = networks.build(config, TrainingData(30, 0, WORDS))
    assert isinstance(method, Branches)
    return Pair(method)


def _evaluate(data: DataConfig) -> Measured:
    torch.set_num_threads(1)
    splits = open_splits(data, CPU, 1)
    object.__setattr__(splits, "batch", 8)
    return retrieval.evaluate(_pair(data), splits, retrieval.Config(folds=2, fold_images=10, shown=3))


def test_two_ranks_measure_the_same(numbers: DataConfig, tmp_path: Path) -> None:
    alone, together = _evaluate(numbers), run_ranks(_evaluate, 2, tmp_path, numbers)
    assert together == alone
    assert alone.metrics.keys() == {
        f"{way}_r{k}{fold}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10) for fold in ("", "_of_10")
    }
    assert (alone.details["num_images"], alone.details["num_captions"]) == (23, 46)
    assert [len(one) for one in alone.details["captions_found"]] == [5, 5, 5]
    assert alone.details["sheet"]["rows"] == 4  # 3 images and 3 times 5


def test_what_has_no_captions_cannot_be_measured(numbers: DataConfig, digits_folder: Path) -> None:
    with pytest.raises(CannotMeasure, match="retrieval is of a run that has learned from captions"):
        retrieval.evaluate(torch.nn.Identity(), open_splits(numbers, CPU, 1), retrieval.Config())
    digits = DataConfig(
        str(digits_folder / "train.beton"), str(digits_folder / "val.beton"), image_size=16, eval_resize=16
    )
    with pytest.raises(CannotMeasure, match="has no captions, which a branch of text"):
        retrieval.evaluate(_pair(numbers), open_splits(digits, CPU, 1), retrieval.Config())


def test_the_papers_table_has_image_to_text_as_the_higher() -> None:
    columns = {column.metric: column.values for column in protocols.COLUMNS if column.evaluation == "retrieval"}
    for k, (forth, back) in {1: (45.2, 33.6), 5: (76.1, 62.7), 10: (84.2, 77.9)}.items():
        assert columns[f"image_to_text_r{k}"]["VICReg"] == forth
        assert columns[f"text_to_image_r{k}"]["VICReg"] == back
