"""Two branches with shared weights, with their own, and with different networks: what is learned, kept and measured."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from jobs.planning import recipes
from jobs.planning.run_folder import read_run
from jobs.planning.subjects import build_encoder
from vicreg import checkpoint, networks
from vicreg.config import DataConfig, ModelConfig, PretrainConfig, ViewConfig
from vicreg.evals import few_labels, results
from vicreg.evals.features import open_splits
from vicreg.evals.results import RANDOM, TRAINED
from vicreg.exchange.encoder_file import checksum, load_encoder
from vicreg.losses.vicreg import vicreg_loss
from vicreg.method import UNKNOWN_DATA, Inputs, Progress
from vicreg.methods import barlow_twins, vicreg
from vicreg.model import num_features
from vicreg.one_branch import branch
from vicreg.ranks.distributed import Placement
from vicreg.run_files import encoder_path
from vicreg.training.train import CHECKPOINTS, Outcome, train

ROOT = Path(__file__).parents[2]
START = Progress(0, 10, 5)
NOTHING = torch.zeros(0, dtype=torch.int64)


def _config(encoder_b: str, side: int = 32, **more: Any) -> PretrainConfig:
    return PretrainConfig(
        vicreg.Config(),
        data=DataConfig(image_size=side, eval_resize=side),
        model=ModelConfig("resnet10-narrow", side == 32, "24-16", encoder_b=encoder_b),
        **more,
    )


@pytest.mark.parametrize(
    ("encoder_b", "side"), [("", 32), ("resnet10-narrow", 32), ("resnet18", 32), ("test_vit", 160)]
)
def test_each_view_goes_through_its_own_branch(encoder_b: str, side: int) -> None:
    torch.manual_seed(3)
    method = networks.build(_config(encoder_b, side), UNKNOWN_DATA).eval()
    views = torch.randn(2, 6, 3, side, side)
    terms = method(Inputs(views.unbind(), NOTHING, NOTHING), START)
    of_a = method.encoder(views[0])
    encoder, expander = (method.encoder_b, method.expander_b) if encoder_b else (method.encoder, method.expander)
    of_b = encoder(views[1])
    expected = vicreg_loss(method.expander(of_a), expander(of_b), vicreg.Config())
    torch.testing.assert_close(terms["loss"], expected["loss"])
    torch.testing.assert_close(terms["features"], of_a if encoder_b else torch.cat([of_a, of_b]))
    assert list(method.encoders) == (["a", "b"] if encoder_b else ["a"])
    own = {id(p) for p in method.encoder.parameters()} & {id(p) for p in encoder.parameters()}
    assert bool(own) == (not encoder_b)


def test_branches_of_the_same_network_begin_with_other_weights() -> None:
    method = networks.build(_config("resnet10-narrow"), UNKNOWN_DATA)
    assert not torch.equal(method.encoder.conv1.weight, method.encoder_b.conv1.weight)
    assert not torch.equal(method.expander[0].weight, method.expander_b[0].weight)


def test_what_cannot_be_is_refused() -> None:
    three = (ViewConfig(), ViewConfig(count=2))
    with pytest.raises(ValueError, match="views is '3 of an image', allowed: 2 for vicreg"):
        networks.build(_config("", views=three), UNKNOWN_DATA)
    joint = _config("resnet18")
    joint = dataclasses.replace(joint, train=dataclasses.replace(joint.train, joint_views=True))
    with pytest.raises(ValueError, match="joint_views is True, allowed: for two views of one size and without encoder"):
        networks.build(joint, UNKNOWN_DATA)
    with pytest.raises(ValueError, match=r"encoder is 'b', allowed for this run: a \(the branches share it\)"):
        branch(joint.model.__class__(), "b")
    with pytest.raises(ValueError, match=r"encoder is 'c', allowed for this run: a, b$"):
        branch(joint.model, "c")


def test_the_papers_recipes_are_those_of_table_5() -> None:
    found = {name: recipes.recipe(name) for name in recipes.RECIPES if name.startswith("imagenet-100ep-")}
    assert {name: one.pretrain.model.encoder_b for name, one in found.items()} == {
        "imagenet-100ep-unshared": "resnet50",
        "imagenet-100ep-r50-r101": "resnet101",
        "imagenet-100ep-r50-vits": "vit_small_patch16_224",
    }
    shared = recipes.recipe("imagenet-100ep").pretrain
    for name, percent in (("unshared", "66.5"), ("r50-r101", "68.1"), ("r50-vits", "66.2")):
        one = found[f"imagenet-100ep-{name}"]
        assert f"{percent} %" in one.expected
        assert dataclasses.replace(one.pretrain, model=shared.model) == shared
        assert len(one.evaluations) > 5


def test_barlow_twins_expander_has_no_biases_and_its_rates_are_the_official_ones() -> None:
    config = recipes.recipe("barlow-twins").pretrain
    small = dataclasses.replace(config, model=ModelConfig("resnet10-narrow", True, "32-16-8", expander_bias="none"))
    method = networks.build(small, UNKNOWN_DATA)
    assert not [name for name, _ in method.expander.named_parameters() if name in ("0.bias", "3.bias", "6.bias")]
    weights, others = method.parameter_groups()
    assert all(p.ndim > 1 for p in weights.parameters)
    assert all(p.ndim == 1 for p in others.parameters)
    assert (weights.rate_factor, weights.decays, weights.adapted) == (1.0, True, True)
    assert others.rate_factor * config.optimizer.base_lr == pytest.approx(0.0048)
    assert not others.decays
    assert not others.adapted


FEW = few_labels.Config(label_counts=(50,), draws=10)
DIGITS = (
    pytest.param("vicreg", "", id="vicreg-shared"),
    pytest.param("vicreg", "resnet10-narrow", id="vicreg-unshared"),
    pytest.param("vicreg", "resnet18", id="vicreg-different"),
    pytest.param("barlow_twins", "", id="barlow-twins"),
    pytest.param("barlow_twins", "resnet10-narrow", id="barlow-twins-unshared"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "encoder_b"), DIGITS)
def test_digits_are_learned(digits_folder: Path, tmp_path: Path, method: str, encoder_b: str) -> None:
    """A short run of recipe digits: with 50 labels every encoder is far better than with random weights."""
    config = recipes.recipe("digits").pretrain
    settings = vicreg.Config() if method == "vicreg" else barlow_twins.Config(redundancy_weight=0.005)
    side = 32 if encoder_b == "resnet18" else 16  # which with the stem of small images would take minutes
    paths = {"train": str(digits_folder / "train.beton"), "val": str(digits_folder / "val.beton")}
    model = dataclasses.replace(
        config.model,
        encoder_b=encoder_b,
        small_images=side == 16,
        expander_bias="hidden" if method == "vicreg" else "none",
    )
    config = dataclasses.replace(
        config,
        method=settings,
        data=dataclasses.replace(config.data, image_size=side, eval_resize=side, **paths),
        model=model,
        train=dataclasses.replace(config.train, epochs=20),
    )
    run = tmp_path / "run"
    run.mkdir()
    assert train(config, run, Placement(0, 1), lambda _: False, Console(quiet=True)) is Outcome.FINISHED
    splits = open_splits(config.data, torch.device("cpu"), 2)
    for name in ["", *(["b"] if encoder_b else [])]:
        measured = [
            few_labels.evaluate(build_encoder(run, subject, config, name), splits, FEW).metrics["top1_50_labels"]
            for subject in (TRAINED, RANDOM)
        ]
        said = "trained {:.1f} %, random weights {:.1f} %".format(*measured)
        print(f"{method} beside {encoder_b or 'itself'}, encoder {name or 'a'}: {said}")
        assert measured[0] > measured[1] + 5, said


@pytest.mark.slow
def test_both_encoders_are_kept_and_measured(digits_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--recipe", "digits", "--run", str(run), "--train.epochs", "1", "--train.global-batch", "256"]
    options += ["--data.train", str(digits_folder / "train.beton"), "--data.val", str(digits_folder / "val.beton")]
    options += ["--data.image-size", "16", "--data.eval-resize", "16", "--model.expander", "32-16"]
    done = _call("pretrain.py", *options, "--model.encoder-b", "resnet18")
    assert "resnet10-narrow and resnet18, each with expander 32-16, 16 px" in " ".join(done.split())
    encoders = [load_encoder(encoder_path(run, name)) for name in ("", "b")]
    assert [num_features(encoder) for encoder in encoders] == [128, 512]
    said = _call("eval_all.py", str(run), "--evals", "knn", "--encoder", "b")
    assert "knn-of-b" in said
    result = results.read(run, "knn-of-b", TRAINED)
    assert result is not None
    assert result.encoder_sha256 == checksum(encoders[1])
    assert result.num_features == 512
    assert results.read(run, "knn", TRAINED) is None
    _call("export_encoder.py", str(run), "--format", "safetensors", "--out", str(tmp_path / "b.st"), "--encoder", "b")
    config, _ = read_run(run)
    step = checkpoint.list_checkpoints(run / CHECKPOINTS)[-1].name
    assert checksum(build_encoder(run, step, config, "b")) == checksum(encoders[1])
    command = [sys.executable, "jobs/eval_all.py", str(run), "--encoder", "c"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "encoder is 'c', allowed for this run: a, b" in refused.stderr


def _call(script: str, *arguments: str) -> str:
    command = [sys.executable, f"jobs/{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
