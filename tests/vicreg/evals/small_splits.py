"""Splits whose right answers are known: features without images, and betons of coloured noise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from vicreg.config import DataConfig
from vicreg.evals.features import Features, Splits

CPU = torch.device("cpu")
SIDE = 8
ROOT = Path(__file__).parents[3]


def splits_of(
    train: NDArray[np.floating], train_labels: list[int], val: NDArray[np.floating], val_labels: list[int]
) -> tuple[nn.Module, Splits]:
    """An encoder and splits for which these are the features."""
    encoder = nn.Identity()
    splits = Splits(DataConfig(), max(train_labels) + 1, CPU, workers=1)
    splits._kept[encoder] = {"train": _features(train, train_labels), "val": _features(val, val_labels)}
    return encoder, splits


def multi_label_splits(
    train: NDArray[np.float32], labels: NDArray[np.int8], val: NDArray[np.float32], truth: NDArray[np.int8]
) -> tuple[nn.Module, Splits]:
    """The same for images that show several classes: labels (num_samples, num_classes) of -1, 0 and 1."""
    encoder = nn.Identity()
    splits = Splits(DataConfig(), labels.shape[1], CPU, workers=1, multi_label=True)
    kept = {"train": _features(train, labels), "val": _features(val, truth)}
    splits._kept[encoder] = kept
    return encoder, splits


def _features(values: NDArray[np.floating], labels: list[int] | NDArray[np.int8]) -> Features:
    return Features(torch.from_numpy(values.astype(np.float32)), torch.as_tensor(labels), (0, len(labels)))


def coloured_noise(folder: Path, num_train: int, num_val: int, num_classes: int, signal: float) -> DataConfig:
    """Betons of noise in which a class has a colour of its own, as strong as `signal`; 0 for labels without meaning."""
    random = np.random.default_rng(0)
    colours = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(8, 1, 1, 3)
    for split, num in (("train", num_train), ("val", num_val)):
        for image in range(num):
            label = image % num_classes
            pixels = 128 + 30 * random.standard_normal((SIDE, SIDE, 3)) + 60 * signal * colours[label]
            path = folder / split / f"class_{label}" / f"{image:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        arguments = ["folder", "--root", str(folder), "--split", split, "--out", str(folder)]
        subprocess.run(
            [sys.executable, "dataprep/write_ffcv.py", *arguments, "--write-mode", "raw", "--num-workers", "0"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    return DataConfig(
        train=str(folder / "train.beton"),
        val=str(folder / "val.beton"),
        image_size=SIDE,
        eval_resize=SIDE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
