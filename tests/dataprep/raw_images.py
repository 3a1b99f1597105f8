"""Small raw data sets, made on the spot: what the tests of dataprep share."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(seed: int, width: int = 40, height: int = 30) -> NDArray[np.uint8]:
    """Smooth coloured noise: what JPEG keeps nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: NDArray[np.uint8], kind: str = "JPEG", **options: object) -> bytes:
    """Pixels as the content of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def make_tree(root: Path, num_per_class: int = 6, classes: tuple[str, ...] = ("ant", "bee", "cow")) -> Path:
    """Class folders of JPEGs of different sizes."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for sample in range(num_per_class):
            seed = 100 * number + sample
            content = encoded(picture(seed, 40 + sample, 30 + number), quality=85)
            (root / name / f"{sample:03d}.jpg").write_bytes(content)
    return root
