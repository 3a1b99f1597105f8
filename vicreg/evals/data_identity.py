"""By what the data of a result, or of kept features, are known again, wherever they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.beton.contract import Beton, open_beton
from vicreg.config import DataConfig

NUM_FINGERPRINT_IMAGES = 64
FRAMED_BY = ("image_size", "eval_resize", "mean", "std")  # the settings by which an image becomes the encoder's input


def fingerprint(beton: Beton) -> str:
    """SHA-256 over labels, image sizes and some images: tells whether a result belongs to a beton, wherever it lies."""
    digest = hashlib.sha256()
    for column in (beton.labels, beton.sizes, beton.widths, beton.heights):
        digest.update(np.ascontiguousarray(column).tobytes())
    for sample in np.linspace(0, beton.num_samples - 1, NUM_FINGERPRINT_IMAGES).astype(np.int64):
        digest.update(beton.image_bytes(int(sample)).tobytes())
    return digest.hexdigest()


def describe(data: DataConfig) -> dict[str, Any]:
    """What a result says about its data: files, numbers of images, fingerprints, and how images reach the encoder."""
    described: dict[str, Any] = {}
    for split, name in (("train", data.train), ("val", data.val)):
        beton = open_beton(Path(name))
        described[split] = {
            "path": name,
            "num_images": beton.num_samples,
            "size_bytes": int(beton.memory.size),
            "fingerprint": fingerprint(beton),
        }
    for name in FRAMED_BY:
        value = getattr(data, name)
        described[name] = list(value) if isinstance(value, tuple) else value
    return described
