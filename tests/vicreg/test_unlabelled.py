"""Images without labels: they are learned from, and what needs labels says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from dataprep.write_ffcv import main
from tests.dataprep.raw_images import picture
from vicreg.config import ModelConfig, OnlineConfig, PretrainConfig, TrainConfig, ViewConfig
from vicreg.evals import few_labels, gallery, knn, linear
from vicreg.evals.features import Pixels, open_splits
from vicreg.methods.vicreg import Config
from vicreg.presets import DIGITS
from vicreg.ranks.distributed import Placement
from vicreg.training.train import Outcome, train


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A short run on 48 pictures without labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    (folder / "photos").mkdir()
    for number in range(48):
        Image.fromarray(picture(number, 20, 18)).save(folder / "photos" / f"{number}.png")
    command = ["folder", "--root", str(folder / "photos"), "--out", str(folder), "--num-workers", "0"]
    assert main([*command, "--val-fraction", "0.25"]) == 0
    data = dataclasses.replace(
        DIGITS, train=str(folder / "train.beton"), val=str(folder / "val.beton"), image_size=16, eval_resize=16
    )
    return PretrainConfig(
        Config(),
        data=data,
        views=(ViewConfig(count=2),),
        model=ModelConfig("resnet10-narrow", True, "16-16"),
        train=TrainConfig(epochs=1, global_batch=12),
    )


@pytest.mark.parametrize("loader", ["beton", "array"])
def test_they_are_learned_from(config: PretrainConfig, tmp_path: Path, loader: str) -> None:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, loader=loader))
    assert train(config, tmp_path, Placement(0, 1), lambda step: False, Console(quiet=True)) is Outcome.FINISHED


def test_what_needs_labels_says_so(config: PretrainConfig, tmp_path: Path) -> None:
    said = r"train\.beton and .*val\.beton has images without labels, which .* needs; write them with labels"
    splits = open_splits(config.data, torch.device("cpu"), 1)
    for evaluation in (knn, linear, few_labels):
        with pytest.raises(ValueError, match=said):
            evaluation.evaluate(Pixels(16), splits, evaluation.Config())
    watched = dataclasses.replace(config, online=OnlineConfig(every_epochs=1))
    with pytest.raises(ValueError, match=said):
        train(watched, tmp_path, Placement(0, 1), lambda step: False, Console(quiet=True))


def test_a_gallery_needs_none(config: PretrainConfig) -> None:
    splits = open_splits(config.data, torch.device("cpu"), 1)
    details = gallery.evaluate(Pixels(16), splits, gallery.Config(neighbours=3, queries=4, images=10)).details
    assert details is not None
    assert set(details["map"]["labels"]) == {gallery.NO_CLASS}
    assert details["classes"] == {}
