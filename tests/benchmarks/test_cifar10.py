"""The suite learns as well as a plain program of the same recipe, in pieces that can be carried."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from benchmarks import cifar10
from vicreg.training.train import Outcome

ROOT = Path(__file__).parents[2]
NUM_VAL_IMAGES = 1000
EPOCHS = 4


def _placed_digits(folder: Path, num_train: int) -> Path:
    """Betons of images of 32 px: handwritten digits at random places, all in the same two colours.

    Training and validation images show different digits of scikit-learn's set.
    """
    digits, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    halves = {"train": range(1400), "val": range(1400, len(digits))}
    for split, num in {"train": num_train, "val": NUM_VAL_IMAGES}.items():
        for number, place in enumerate(generator.choice(halves[split], num)):
            ink = Image.fromarray((digits[place].reshape(8, 8) * 15.9).astype(np.uint8)).resize((28, 28))
            left, top = generator.integers(0, 5, 2).tolist()
            mask = np.zeros((32, 32, 1))
            mask[top : top + 28, left : left + 28, 0] = np.asarray(ink) / 255
            pixels = mask * (255, 240, 220) + (1 - mask) * (20, 40, 80)
            path = folder / split / str(labels[place]) / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        command = [sys.executable, "dataprep/write_ffcv.py", "folder", "--root", str(folder), "--split", split]
        subprocess.run([*command, "--out", str(folder / "betons")], cwd=ROOT, check=True, capture_output=True)
    return folder / "betons"


@pytest.mark.slow
@pytest.mark.timeout(600)  # two programs, on machines of any speed
def test_it_learns_as_well_as_the_plain_program(tmp_path: Path) -> None:
    """5,000 images, a narrow network: accuracies of both after the same epochs."""
    both = cifar10.scale(_placed_digits(tmp_path / "data", 5000), small=True, epochs=EPOCHS)
    assert cifar10.train_ours(both.config, tmp_path, lambda _: False, Console(file=io.StringIO())) == Outcome.FINISHED
    cifar10.train_plain(both.plain, both.config, tmp_path, lambda: True)
    measured = cifar10.accuracies(tmp_path)
    last = {name: lines[-1] for name, lines in measured.items()}
    assert all(line["epoch"] == EPOCHS for line in last.values())
    for field in ("online_top1", "knn_top1"):
        assert last["suite"][field] > 50  # chance is 10
        assert last["suite"][field] > last["plain"][field] - 3
    written = io.StringIO()
    cifar10.print_accuracies(tmp_path, Console(file=written, width=100))
    assert f"{last['suite']['knn_top1']:.2f}" in written.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pieces_carry_both_programs_to_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "PIECE_BYTES", 100_000)
    torch.set_num_threads(1)
    both = cifar10.scale(_placed_digits(tmp_path / "data", 1000), small=True, epochs=2)
    silent = Console(file=io.StringIO())

    def finish(run: Path) -> list[list[tuple[float, ...]]]:
        assert cifar10.train_ours(both.config, run, lambda _: False, silent) == Outcome.FINISHED
        cifar10.train_plain(both.plain, both.config, run, lambda: True)
        fields = ("epoch", "online_top1", "knn_top1")
        return [[tuple(line[f] for f in fields) for line in lines] for lines in cifar10.accuracies(run).values()]

    whole = finish(tmp_path / "whole")
    here, there = tmp_path / "here", tmp_path / "there"
    assert cifar10.train_ours(both.config, here, lambda step: step == 8, silent) == Outcome.STOPPED
    cifar10.train_plain(both.plain, both.config, here, iter([True, False]).__next__)
    cifar10.pack(here)
    there.mkdir()
    (here / cifar10.PIECES).rename(there / cifar10.PIECES)
    sizes = [path.stat().st_size for path in (there / cifar10.PIECES).iterdir()]
    assert len(sizes) > 10
    assert max(sizes) <= 100_000
    cifar10.unpack(there)
    assert finish(there) == whole
    assert [len(lines) for lines in whole] == [2, 2]
