"""By what the data of a result, or of kept features, are known again, wherever they lie; classes by their names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.beton.contract import Beton, open_beton
from dataprep.beton.manifest import class_names
from vicreg.config import DataConfig

NUM_FINGERPRINT_IMAGES = 64
FRAMED_BY = ("image_size", "eval_resize", "mean", "std")  # the settings by which an image becomes the encoder's input


def fingerprint(beton: Beton) -> str:
    """SHA-256 over labels, objects, image sizes and some images: by it a result knows its beton, wherever that lies."""
    digest = hashlib.sha256()
    more = [places["size"] for places in beton.more.values()]
    for column in (beton.labels, beton.sizes, beton.widths, beton.heights, *more):
        digest.update(np.ascontiguousarray(column).tobytes())
    for sample in np.linspace(0, beton.num_samples - 1, NUM_FINGERPRINT_IMAGES).astype(np.int64):
        digest.update(beton.image_bytes(int(sample)).data)
        for name in beton.more:
            digest.update(beton.field_bytes(name, int(sample)).data)
    return digest.hexdigest()


def describe(data: DataConfig) -> dict[str, Any]:
    """What a result says about its data: files, numbers of images, fingerprints, and how images reach the encoder.

    Where the two betons do not number their classes alike, also by which names they were matched.
    """
    described: dict[str, Any] = {}
    for split, name in (("train", data.train), ("val", data.val)):
        beton = open_beton(Path(name))
        described[split] = {
            "path": name,
            "num_images": beton.num_samples,
            "size_bytes": beton.file.size,
            "fingerprint": fingerprint(beton),
        }
    for name in FRAMED_BY:
        value = getattr(data, name)
        described[name] = list(value) if isinstance(value, tuple) else value
    if matched := match_classes(data):
        names = class_names(Path(data.train)) or ()
        lacking = [name for number, name in enumerate(names) if number not in matched]
        described["classes"] = {"matched": len(matched), "of": len(names), "without_val_images": lacking}
    return described


def match_classes(data: DataConfig) -> tuple[int, ...]:
    """The training set's number of each of the validation set's classes; empty where they are numbered alike.

    ValueError where the validation set has a class that the training set does not have. Betons without manifests are
    taken to be numbered alike.
    """
    train, val = class_names(Path(data.train)), class_names(Path(data.val))
    if train is None or val is None or train == val:
        return ()
    places = {name: number for number, name in enumerate(train)}
    unknown = [name for name in val if name not in places]
    if unknown:
        raise ValueError(
            f"{data.val} has classes that {data.train} does not have: {_listed(unknown)}; allowed: the training set's, "
            f"{_listed(list(train))}"
        )
    return tuple(places[name] for name in val)


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
