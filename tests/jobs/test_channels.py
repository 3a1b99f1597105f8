"""Five channels of 16 bits through all commands: files, betons, two ranks, a kill, evaluations, a report."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vicreg
from dataprep.beton.contract import open_beton
from dataprep.beton.manifest import channel_statistics, manifest_samples
from jobs import eval_all, import_encoder, pretrain, search
from jobs.options.pretrain import parse
from jobs.planning.run_folder import read_run
from tests import five_channels
from tests.jobs.run_folders import digits_config, write_run
from vicreg import checkpoint
from vicreg.config import DataConfig, ModelConfig, PretrainConfig, without_colours
from vicreg.cost.estimate import estimate
from vicreg.cost.flops import step_flops
from vicreg.data.channels import fitted_to_channels
from vicreg.evals.gallery import as_picture
from vicreg.evals.results import OTHER, TRAINED, read_all
from vicreg.exchange.encoder_file import load_encoder, untrained_encoder
from vicreg.exchange.given_weights import beginning_of
from vicreg.run_files import TIMING, read_metrics

ROOT = Path(__file__).parents[2]
STEPS = 12  # 3 epochs of 4


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton (32 images) and val.beton (8)."""
    return five_channels.write(tmp_path_factory.mktemp("five"), 40, val_fraction=0.2)


def _config(five: Path, *more: str) -> PretrainConfig:
    data = [f"--data.{split}={five / f'{split}.beton'}" for split in ("train", "val")]
    return parse(["--recipe", "cifar10", *data, *more]).config


def test_a_configuration_fits_itself_to_the_data(five: Path) -> None:
    config = _config(five)
    assert (config.data.mean, config.data.std) == channel_statistics(five / "train.beton")
    assert config.model.channels == 5
    recipe = parse(["--recipe", "cifar10"]).config
    assert config.views == tuple(map(without_colours, recipe.views)) != recipe.views
    assert recipe.model.channels == 0
    ours = _config(five, "--data.mean", "0.1", "0.2", "0.3", "0.4", "0.5")
    assert ours.data.mean == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert ours.data.std == config.data.std


def test_recipe_auto_fits_itself_too(five: Path) -> None:
    data = [f"--data.{split}={five / f'{split}.beton'}" for split in ("train", "val")]
    config = parse(["--recipe", "auto", *data]).config
    assert config.model.channels == 5
    assert (config.data.mean, config.data.std) == channel_statistics(five / "train.beton")
    assert config.views == tuple(map(without_colours, config.views))


def test_the_cost_is_that_of_the_channels(five: Path) -> None:
    config, rgb = _config(five), parse(["--recipe", "cifar10"]).config
    values = 256 * 2 * 32 * 32  # of a channel in all views
    assert estimate(rgb, 1, on_gpu=False).batch_bytes == values * 3 * (4 + 1)
    assert estimate(config, 1, on_gpu=False).batch_bytes == values * 5 * (4 + 4)
    more = step_flops(config, 256) - step_flops(rgb, 256)
    # Two more channels into the first convolution (3 x 3 to 64 of 34 x 34, padding 2), forward and for the weights.
    assert more == 2 * values // (32 * 32) * 34 * 34 * 64 * 2 * 9 * 2


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--views.0.hue", "0.1"], "views.0.hue is 0.1, allowed: 0 for images that are not RGB"),
        (["--data.mean", "0.5", "0.5"], "allowed: 2 numbers, as mean has"),
        (["--model.channels", "4"], "allowed: a number for each of the encoder's 4 channels"),
        (["--model.colours", "lab"], "colours is 'lab', allowed: rgb: 5 channels have none"),
    ],
)
def test_what_does_not_fit_is_refused(
    five: Path, option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError)) as caught:  # a value by tyro, or what fits no other by ourselves
        _config(five, *option)
    shown = capsys.readouterr()
    assert said in " ".join(f"{shown.out} {shown.err} {caught.value}".replace("│", " ").split())


def test_pictures_show_what_normalisation_sees() -> None:
    data = DataConfig(mean=(0.1, 0.2, 0.3, 0.4), std=(0.01, 0.02, 0.03, 0.04))
    for deviations, shown in ((0, 128), (2, 255), (-2, 0), (5, 255)):
        values = 65535 * (np.asarray(data.mean) + deviations * np.asarray(data.std))
        image = np.rint(np.broadcast_to(values, (2, 2, 4))).astype(np.uint16)
        for channels in (4, 2):
            picture = np.asarray(as_picture(image[..., :channels], data, is_rgb=False))
            assert picture.shape == (2, 2, 3)
            assert np.abs(picture.astype(int) - shown).max() <= 1


@pytest.fixture(scope="module")
def run(five: Path) -> Path:
    """A finished run whose encoder of five channels has random weights."""
    config = fitted_to_channels(digits_config(five))
    write_run(five / "run", config, "digits")
    return five / "run"


def test_files_and_arrays_are_embedded_as_the_beton_of_them_is(five: Path, run: Path, tmp_path: Path) -> None:
    model, beton = vicreg.load(run), open_beton(five / "val.beton")
    files = [five / "images" / name for name, _ in manifest_samples(beton.path)]
    features = model.embed_beton(beton.path)
    assert features.std() > 0
    np.testing.assert_array_equal(model.embed(files), features)
    np.testing.assert_array_equal(model.embed([np.load(file) for file in files]), features)
    assert model.transform(files[0]).shape == (5, 16, 16)
    np.save(tmp_path / "three.npy", np.load(files[0])[..., :3])
    with pytest.raises(ValueError, match=r"three.npy: shape \d+ x \d+ x 3 has no axis of 5 channels"):
        model.embed(tmp_path / "three.npy")
    with pytest.raises(ValueError, match=r"uint8 of shape \(9, 9, 3\), allowed: uint8 or uint16 \(H, W, 5\)"):
        model.embed(np.zeros((9, 9, 3), np.uint8))


def test_images_are_searched_with_pictures(five: Path, run: Path, tmp_path: Path) -> None:
    query = next((five / "images").glob("*/*.npy"))
    arguments = [
        str(run),
        "--gallery",
        str(five / "images"),
        "--query",
        str(query),
        "--out",
        str(tmp_path / "page.html"),
    ]
    assert search.main(arguments) == 0
    page = (tmp_path / "page.html").read_text()
    assert query.name in page
    assert page.count("data:image/jpeg;base64,") >= 1


def _command(folder: Path, run: Path) -> list[str]:
    options = {
        "recipe": "digits",
        "run": run,
        "gpus": 2,
        "data.train": folder / "train.beton",
        "data.val": folder / "val.beton",
        "data.image-size": 16,
        "data.eval-resize": 16,
        "model.expander": "64-64",
        "train.epochs": 3,
        "train.global-batch": 64,
        "train.log-every-steps": 1,
        "train.checkpoint-every-steps": 2,
    }
    return [sys.executable, "jobs/pretrain.py", *[f"--{name}={value}" for name, value in options.items()]]


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_files_to_a_report(tmp_path: Path) -> None:
    folder = five_channels.write(tmp_path / "data", 360)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert "268 images of 5 channels of 16 bits" in " ".join(_run(*_command(folder, whole)).split())
    killed = subprocess.Popen(_command(folder, run), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    while killed.poll() is None and not any(line["step"] >= 5 for line in read_metrics(run)):
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    _run(sys.executable, "jobs/pretrain.py", "--run", str(run), "--gpus", "2")
    ends = [checkpoint.load_newest(one / "checkpoints") for one in (whole, run)]
    assert [end["step"] for end in ends if end] == [STEPS, STEPS]
    weights, expected = (end["method"] for end in ends if end)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    lines = [[{k: v for k, v in line.items() if k not in TIMING} for line in read_metrics(one)] for one in (whole, run)]
    assert lines[0] == lines[1]

    _run(sys.executable, "jobs/eval_all.py", str(run), "--evals", "knn", "linear", "gallery")
    results = {path.parent.name: json.loads(path.read_text()) for path in run.glob("evals/*/result.json")}
    assert results.keys() == {"knn", "knn@random", "knn@pixels", "linear", "linear@random", "gallery"}
    assert results["knn@pixels"]["num_features"] == 5 * 16 * 16
    assert results["knn"]["metrics"]["top1_20_neighbours"] > 50  # by chance 25
    assert results["linear"]["metrics"]["top1_last_epoch"] > 50
    sheet = Image.open(io.BytesIO(base64.b64decode(results["gallery"]["details"]["map"]["sheet"]["jpeg"])))
    assert 20 < np.asarray(sheet)[:32, :32].std() < 120  # stripes are seen, though values use a sixteenth of the range
    assert "knn" in (run / "report.html").read_text()


@pytest.mark.slow
def test_weights_for_rgb_begin_a_run_and_stand_beside_it(five: Path, tmp_path: Path) -> None:
    """In pretraining by option, as an import beside it, and both measured."""
    torch.save(
        untrained_encoder(ModelConfig("resnet10-narrow", small_images=True), 3).state_dict(), tmp_path / "rgb.pth"
    )
    run, beside = tmp_path / "run", tmp_path / "imported"
    data = [f"--data.{split}={five / f'{split}.beton'}" for split in ("train", "val")]
    data += ["--data.image-size=16", "--data.eval-resize=16"]
    options = ["--recipe=digits", f"--run={run}", f"--model.weights={tmp_path / 'rgb.pth'}", "--model.expander=16-16"]
    options += ["--train.epochs=1", "--train.global-batch=16", "--optimizer.warmup-epochs=0"]
    with pytest.raises(SystemExit):
        pretrain.main([*options, *data])
    assert not (run / "config.json").exists()
    assert pretrain.main([*options, *data, "--model.weights-channels=mean"]) == 0
    assert "for 3 channels became one for 5" in json.loads((run / "config.json").read_text())["beginning"]["channels"]
    taken = [str(tmp_path / "rgb.pth"), "--recipe=digits", f"--run={beside}", *data]
    with pytest.raises(SystemExit):
        import_encoder.main([*taken, "--channels=17"])
    assert import_encoder.main([*taken, "--channels=5"]) == 0
    config, _ = read_run(beside)
    assert (config.model.channels, config.data.mean) == (5, channel_statistics(five / "train.beton")[0])
    weight = load_encoder(beside / "encoder.pt").get_parameter("conv1.weight")
    assert torch.equal(weight, beginning_of(run).encoder["conv1.weight"])
    assert eval_all.main([str(run), "--evals", "knn", f"--baselines={beside}"]) == 0
    assert {TRAINED, f"{OTHER}imported"} <= {one.subject for one in read_all(run)}
