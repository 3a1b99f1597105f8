"""The import command: foreign encoders become run folders that are measured like any other, or are refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision.models

from jobs import import_encoder, pretrain
from jobs.planning.run_folder import read_run
from jobs.planning.subjects import build_encoder
from tests.jobs.run_folders import digits_config, write_run
from vicreg.config import ModelConfig
from vicreg.config_json import to_json
from vicreg.evals.results import RANDOM
from vicreg.exchange.encoder_file import checksum, load_encoder, untrained_encoder
from vicreg.exchange.foreign_names import SIDES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a torchvision network."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def _import(*arguments: str | Path) -> None:
    assert import_encoder.main([str(argument) for argument in arguments]) == 0


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        import_encoder.main([str(argument) for argument in arguments])
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_a_foreign_encoder_becomes_a_run(tmp_path: Path, resnet18: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "foreign"
    command = (resnet18, "--run", run, "--encoder", "resnet18", "--data.val", "other/val.beton")
    _import(*command)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "state dict, 120 tensors of the encoder dropped the classifier: fc.weight, fc.bias" in said
    assert "encoder resnet18: 11.2 M parameters, 512 features of images of 224 px" in said
    assert f"next python jobs/eval_all.py {run}" in said
    assert "note" not in said
    config, recipe = read_run(run)
    assert recipe == "imagenet-1000ep"
    assert (config.model.encoder, config.model.small_images, config.data.val) == ("resnet18", False, "other/val.beton")
    content = json.loads((run / "config.json").read_text())
    assert set(content) == {"schema", "recipe", "pretrain", "code", "versions", "imported"}
    assert content["imported"]["source"] == str(resnet18)
    weights = load_encoder(run / "encoder.pt").get_parameter("layer1.0.conv1.weight")
    assert torch.equal(weights, torch.load(resnet18, weights_only=True)["layer1.0.conv1.weight"])
    assert [path.name for path in run.parent.iterdir()] == ["foreign"]
    _import(*command)
    assert "is there" in capsys.readouterr().out


def test_a_folder_that_holds_something_else_is_refused(
    tmp_path: Path, resnet18: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (resnet18, "--encoder", "resnet18", "--run")
    (tmp_path / "empty").mkdir()
    _import(*command, tmp_path / "empty")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "holds something else already; choose another folder with --run" in _refused(
        capsys, *command, tmp_path / "run"
    )
    assert "holds something else" in _refused(capsys, "--random", "--encoder", "resnet18", "--run", tmp_path / "empty")
    assert "holds something else" in _refused(capsys, *command, tmp_path / "empty", "--data.val", "another/val.beton")


def test_training_does_not_go_on_from_an_imported_encoder(
    tmp_path: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--recipe", "digits", "--run", str(tmp_path / "run")]
    where += [f"--data.{split}={digits_folder / split}.beton" for split in ("train", "val")]
    _import("--random", *where)
    with pytest.raises(SystemExit):
        pretrain.main(where)
    assert "holds an imported encoder, which is not trained on" in capsys.readouterr().err
    assert "imported" in json.loads((tmp_path / "run" / "config.json").read_text())


def test_random_is_the_baseline_of_the_evaluations(tmp_path: Path) -> None:
    run = tmp_path / "run"
    _import("--random", "--recipe", "digits", "--run", run)
    config, _ = read_run(run)
    assert checksum(load_encoder(run / "encoder.pt")) == checksum(build_encoder(run, RANDOM, config))
    assert json.loads((run / "config.json").read_text())["imported"] == {"form": "random weights", "seed": 0}


def test_our_own_encoder_names_itself_and_its_images(
    tmp_path: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "from", digits_config(digits_folder), "digits")
    source = tmp_path / "from" / "encoder.pt"
    _import(source, "--run", tmp_path / "same", "--recipe", "cifar10")
    assert "note" not in capsys.readouterr().out  # this file does not say how its images were
    assert checksum(load_encoder(tmp_path / "same" / "encoder.pt")) == checksum(load_encoder(source))
    assert read_run(tmp_path / "same")[0].model == digits_config(digits_folder).model
    content = torch.load(source, weights_only=True)
    torch.save(content | {"origin": {"config": {"data": to_json(digits_config(digits_folder).data)}}}, source)
    _import(source, "--run", tmp_path / "other", "--recipe", "cifar10")
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    flags = "--data.image-size 16 --data.mean 0.305 0.305 0.305 --data.std 0.376 0.376 0.376"
    assert f"note it was trained with other images than this run has: {flags}" in said
    _import(source, "--run", tmp_path / "like", "--recipe", "cifar10", "--data.eval-resize", "16", *flags.split())
    assert "note" not in capsys.readouterr().out
    assert "but " in _refused(capsys, source, "--run", tmp_path / "x", "--encoder", "resnet18")


def test_the_stem_is_told_by_shapes_and_by_whose_names_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """solo-learn's has a padding of 2, which changes no shape and every feature."""
    encoder = untrained_encoder(ModelConfig("resnet10-narrow", small_images=True, stem_padding=2), seed=1)
    content = {f"backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
    others = {"projector.0.weight": torch.zeros(2), "classifier.weight": torch.zeros(2)}
    torch.save({"state_dict": content | others}, tmp_path / "solo.ckpt")
    _import(tmp_path / "solo.ckpt", "--encoder", "resnet10-narrow", "--run", tmp_path / "solo")
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "solo-learn's, whose stem for small images has a padding of 2" in said
    assert "--stem-padding 1 for the usual one" in said
    assert "(entry state_dict, backbone. taken off the names)" in said
    model = read_run(tmp_path / "solo")[0].model
    assert (model.small_images, model.stem_padding) == (True, 2)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_encoder(tmp_path / "solo" / "encoder.pt")(images), encoder(images))
    torch.save(content, tmp_path / "other.ckpt")
    _import(tmp_path / "other.ckpt", "--encoder", "resnet10-narrow", "--run", tmp_path / "other")
    assert read_run(tmp_path / "other")[0].model.stem_padding == 1
    _import(tmp_path / "other.ckpt", "--encoder", "resnet10-narrow", "--run", tmp_path / "told", "--stem-padding", "2")
    assert read_run(tmp_path / "told")[0].model.stem_padding == 2


def test_of_several_networks_one_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    networks = {name: untrained_encoder(ModelConfig("resnet10-narrow"), seed) for seed, name in enumerate(SIDES)}
    torch.save({name: network.state_dict() for name, network in networks.items()}, tmp_path / "dino.pth")
    command = (tmp_path / "dino.pth", "--encoder", "resnet10-narrow", "--run", tmp_path / "run")
    assert "it holds a student and a teacher; choose one: student, teacher\n  --part chooses" in _refused(
        capsys, *command
    )
    _import(*command, "--part", "teacher")
    assert checksum(load_encoder(tmp_path / "run" / "encoder.pt")) == checksum(networks["teacher"])


def test_other_normalisation_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torchvision.models.googlenet(init_weights=False).state_dict(), tmp_path / "googlenet.pth")
    _import(tmp_path / "googlenet.pth", "--encoder", "googlenet", "--run", tmp_path / "run")
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "published weights of googlenet expect other images than this run has: --data.mean 0.5 0.5 0.5" in said
    assert "aux1.conv.conv.weight" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--encoder", "resnet34"], "does not fit resnet34:\n  missing (80): layer1.2.conv1.weight"),
        (["--encoder", "resnet18", "--small-images", "True"], "conv1.weight is (64, 3, 7, 7), needed (64, 3, 3, 3)"),
        (
            ["--encoder", "resnet18", "--small-images", "True"],
            "fits with small_images False, the stem for large images",
        ),
        (["--encoder", "resnet51"], "encoder is 'resnet51', allowed:"),
        (["--random"], "say either SOURCE, the file of a trained encoder, or --random, and not both"),
        (["--recipe", "digit"], "recipe is 'digit' (did you mean digits?), allowed: auto"),
    ],
)
def test_wrong_input_says_what_is_allowed(
    tmp_path: Path, resnet18: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    said = _refused(capsys, resnet18, "--run", tmp_path / "run", *more)
    assert message in said
    if "fit" in message:
        assert "--encoder names the network that it was made with" in said
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_cannot_see_the_images_or_has_diverged_is_refused(
    tmp_path: Path, resnet18: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _refused(capsys, "--random", "--encoder", "vit_b_32", "--run", tmp_path / "run", "--data.image-size", "96")
    assert "vit_b_32 does not take images of 96 px" in said
    weights = torch.load(resnet18, weights_only=True)
    weights["bn1.bias"][0] = torch.nan
    torch.save(weights, tmp_path / "nan.pth")
    said = _refused(capsys, tmp_path / "nan.pth", "--encoder", "resnet18", "--run", tmp_path / "run")
    assert "not finite" in said


@pytest.mark.slow
def test_an_imported_encoder_is_measured(tmp_path: Path, digits_folder: Path, resnet18: Path) -> None:
    run = str(tmp_path / "run")
    data = [f"--data.{split}={digits_folder / split}.beton" for split in ("train", "val")]
    for command in (
        ["jobs/import_encoder.py", str(resnet18), "--recipe", "digits", "--encoder", "resnet18", "--run", run, *data],
        ["jobs/eval_all.py", run, "--evals", "knn"],
    ):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "evals" / "knn" / "result.json").read_text())
    assert metrics["num_features"] == 512
    assert 30 < metrics["metrics"]["top1_20_neighbours"] <= 100
