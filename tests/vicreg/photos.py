"""Real photographs for tests: cuttings of scikit-learn's two sample images, and betons of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).parents[2]


def photos(num: int, size: int | None = None) -> list[NDArray[np.uint8]]:
    """Cuttings (H, W, 3) of different sizes from 60 to 427 pixels, or all squares of `size`."""
    rng = np.random.default_rng(0)
    sources = load_sample_images().images
    found = []
    for number in range(num):
        source = sources[number % 2]
        height, width = (size, size) if size else rng.integers(60, 428, 2)
        top, left = rng.integers(0, source.shape[0] - height + 1), rng.integers(0, source.shape[1] - width + 1)
        found.append(np.ascontiguousarray(source[top : top + height, left : left + width]))
    return found


def write_photos(folder: Path, images: list[NDArray[np.uint8]], write_mode: str = "passthrough") -> Path:
    """A beton of these images in this order, labels 0 and 1: the first half and the second."""
    for number, image in enumerate(images):
        place = folder / "images" / ("first" if number < len(images) // 2 else "second")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:04d}.jpg", quality=95)
    command = [sys.executable, "dataprep/write_ffcv.py", "folder", "--root", str(folder / "images")]
    command += ["--out", str(folder), "--write-mode", write_mode, "--num-workers", "0"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (beton,) = folder.glob("*.beton")
    return beton
