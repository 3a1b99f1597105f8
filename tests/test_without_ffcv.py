"""From JPEGs to a measured encoder where neither FFCV nor libturbojpeg is there: the same bits as with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataprep.beton.turbojpeg import turbojpeg

ROOT = Path(__file__).parents[1]
HIDDEN = """
import ctypes, sys
sys.modules["ffcv"] = None
class CDLL(ctypes.CDLL):
    def __init__(self, name, *arguments, **named):
        if "turbojpeg" in str(name) or "libffcv" in str(name):
            raise OSError(f"{name} is hidden")
        super().__init__(name, *arguments, **named)
ctypes.CDLL = CDLL
"""
LOADED = """
from dataprep.beton.jpeg_decoder import jpeg_decoder
print(jpeg_decoder().__name__)
import ffcv
"""


def _photos(root: Path) -> None:
    """Two classes of JPEGs that are no multiples of eight pixels."""
    draw = np.random.default_rng(5)
    for split, count in (("train", 40), ("val", 8)):
        for label in ("dark", "light"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                noise = draw.integers(0, 130, (37, 45, 3)) + (0 if label == "dark" else 120)
                Image.fromarray(noise.astype(np.uint8)).save(root / split / label / f"{number}.jpg", quality=90)


def _run(environment: dict[str, str], *command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _from_photos_to_a_number(photos: Path, out: Path, environment: dict[str, str]) -> None:
    for split in ("train", "val"):
        _run(
            environment,
            *("dataprep/write_ffcv.py", "folder", "--root", str(photos), "--out", str(out / "data"), "--split", split),
        )
    data = ("--data.train", str(out / "data/train.beton"), "--data.val", str(out / "data/val.beton"))
    small = ("--train.epochs", "2", "--train.global-batch", "20", "--model.encoder", "resnet10-narrow")
    _run(environment, *("jobs/pretrain.py", "--recipe", "digits", "--run", str(out / "run"), *data, *small))
    _run(environment, *("jobs/eval_all.py", str(out / "run"), "--evals", "knn", "--set", "knn.neighbours=5"))


@pytest.mark.slow
@pytest.mark.skipif(turbojpeg() is None, reason="libturbojpeg is missing here, so there is nothing to compare with")
def test_everything_has_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDDEN)
    without = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "hidden"), str(ROOT)])}
    told = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, env=without, capture_output=True, text=True, timeout=60
    )
    assert told.stdout.strip() == "WheelJpeg"
    assert "ModuleNotFoundError: import of ffcv halted" in told.stderr
    _photos(tmp_path / "photos")
    for name, environment in (("with", dict(os.environ)), ("without", without)):
        _from_photos_to_a_number(tmp_path / "photos", tmp_path / name, environment)
    for file in ("data/train.beton", "data/val.beton"):
        assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes()
    one, other = (torch.load(tmp_path / name / "run/encoder.pt", weights_only=True) for name in ("with", "without"))
    for name, tensor in one["encoder"].items():
        assert torch.equal(tensor, other["encoder"][name]), name
    results = [tmp_path / name / "run/evals/knn/result.json" for name in ("with", "without")]
    measured = [json.loads(path.read_text())["metrics"] for path in results]
    assert measured[0] == measured[1]
