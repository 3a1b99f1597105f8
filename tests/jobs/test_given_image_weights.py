"""Runs on images and captions that begin with given weights of the image's encoder: frozen, or learning on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dataprep.write_ffcv import main as write
from jobs import pretrain
from jobs.planning import recipes
from vicreg.exchange.encoder_file import load_encoder
from vicreg.model import narrow_resnet


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton and val.beton of 16 numbers and their names each."""
    folder = tmp_path_factory.mktemp("numbers")
    for split in ("train", "val"):
        options = ["digits", "--captions", "--split", split, "--limit", "16", "--num-workers", "0"]
        assert write([*options, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(("recipe", "frozen"), [("coco-captions", True), ("coco-captions-vse-pp", False)])
def test_an_image_encoder_begins_with_a_file_beside_captions(
    numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str, frozen: bool
) -> None:
    """A small network with its classifier, in the place of the paper's ResNet-152."""
    torch.manual_seed(7)
    published = narrow_resnet().state_dict()
    torch.save(published, tmp_path / "resnet10-narrow.pth")
    options = {
        "recipe": recipe,
        "cluster": "local",
        "run": tmp_path / "run",
        "data.train": numbers / "train.beton",
        "data.val": numbers / "val.beton",
        "data.image-size": 32,
        "data.eval-resize": 32,
        "model.encoder": "resnet10-narrow",
        "model.encoder-b": "gru-8-16",
        "model.expander": "16",
        "model.min-word-count": 1,
        "model.weights": tmp_path / "resnet10-narrow.pth",
        "model.frozen": frozen,
        "train.epochs": 1,
        "train.global-batch": 8,
    }
    assert pretrain.main([f"--{name}={value}" for name, value in options.items()]) == 0
    assert "tensors of resnet10-narrow" in capsys.readouterr().out
    learned = load_encoder(tmp_path / "run" / "encoder.pt").state_dict()
    changed = {name for name, tensor in learned.items() if not torch.equal(tensor, published[name])}
    if frozen:  # running statistics too
        assert not changed
    else:  # two steps at a small rate: still near
        assert {"conv1.weight", "bn1.running_mean"} <= changed
        torch.testing.assert_close(learned["conv1.weight"], published["conv1.weight"], rtol=0, atol=1e-2)


def test_the_recipes_of_captions_say_with_which_weights_the_published_runs_begin() -> None:
    for name in ("coco-captions", "coco-captions-barlow-twins", "coco-captions-vse-pp"):
        recipe = recipes.recipe(name)
        assert recipe.pretrain.model.encoder == "resnet152"
        assert recipe.pretrain.model.encoder_b == "gru-300-1024"
        assert "--model.weights torchvision" in recipe.source
