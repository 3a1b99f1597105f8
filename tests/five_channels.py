"""Images of five channels of 16 bits, made on the spot: what the tests of channels share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataprep.write_ffcv import main

CHANNELS = 5
CLASSES = 4
BRIGHTEST = 4095  # of 12 bits, as many cameras have, in 16
MISSING = 3  # a channel that is the same in all images


def image(number: int, side: int = 20) -> NDArray[np.uint16]:
    """A picture (H, W, 5) of class `number % CLASSES`, whose stripes run in a direction of their own; sizes differ."""
    random = np.random.default_rng(number)
    height, width = side + number % 3, side + number % 4
    rows, columns = np.mgrid[:height, :width]
    angle = np.pi * (number % CLASSES) / CLASSES
    phases = random.uniform(0, 2 * np.pi, CHANNELS)
    waves = np.sin((rows * np.sin(angle) + columns * np.cos(angle))[..., None] * 0.8 + phases)
    values = BRIGHTEST * (0.5 + 0.2 * waves + 0.05 * random.standard_normal((height, width, CHANNELS)))
    values[..., MISSING] = 77
    found: NDArray[np.uint16] = values.clip(0, BRIGHTEST).astype(np.uint16)
    return found


def write(folder: Path, num: int, val_fraction: float = 0.25, side: int = 20) -> Path:
    """Betons train and val in `folder`, of .npy files in class folders."""
    for number in range(num):
        path = folder / "images" / f"stripes_{number % CLASSES}" / f"{number:04d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, image(number, side))
    arguments = ["folder", "--root", str(folder / "images"), "--out", str(folder), "--num-workers", "0"]
    assert main([*arguments, "--val-fraction", str(val_fraction)]) == 0
    return folder
