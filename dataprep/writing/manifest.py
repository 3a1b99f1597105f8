"""Writing the manifest: JSON laid out so that its list of samples can be streamed, one sample per line, at the end.

It holds no time and no name of a machine: the same source and options give the same manifest.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from dataprep.beton.jpeg_check import checker_name
from dataprep.beton.manifest import MANIFEST_SCHEMA
from dataprep.writing.raw_source import LABEL_VALUES, Source
from dataprep.writing.write_plan import WritePlan


def identity(source: Source, plan: WritePlan) -> dict[str, Any]:
    """What a beton was made from and how, as in its manifest: equal for equal source, listing and options."""
    listing = {"num_listed": len(source), "listing_crc32": _listing_crc(source)}
    if source.objects is not None or source.captions is not None:
        listing["annotations_crc32"] = source.annotations_crc32
    if source.clips is not None:
        listing["clips_crc32"] = zlib.crc32(np.stack([source.clips.folds, source.clips.recordings]).tobytes())
    return {
        "classes": list(source.classes),
        "source": {"name": source.name, "root": source.root, "split": source.split, **listing},
        "options": dataclasses.asdict(plan),
    }


def samples_per_class(labels: NDArray[Any], classes: Sequence[str]) -> dict[str, Any]:
    """How many samples each class has; of label vectors how many are -1, 0 and 1 in it."""
    if not classes:
        return {}
    if labels.ndim == 1:
        return dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))
    columns = zip(classes, labels.T, strict=True)
    return {name: {str(value): int((column == value).sum()) for value in LABEL_VALUES} for name, column in columns}


def software(is_sound: bool = False) -> dict[str, str]:
    """Versions on which the stored bytes and the rejections depend."""
    try:
        suite = importlib.metadata.version("vicreg-suite")
    except importlib.metadata.PackageNotFoundError:
        suite = "not installed"
    if is_sound:
        return {"suite": suite} | {name: importlib.metadata.version(name) for name in ("soundfile", "scipy")}
    libjpeg = str(features.version("libjpeg_turbo") or features.version("jpg"))
    return {"suite": suite, "pillow": PIL.__version__, "libjpeg": libjpeg, "jpeg_check": checker_name()}


def write_manifest(path: Path, head: dict[str, Any], samples: Iterable[tuple[str, int]]) -> None:
    """Write the keys of `head`, then `samples` (relative path, CRC-32), to a file that is still to be put in its place.

    The CRC-32 is that of the image's stored bytes and, behind them, of the label vector where there is one.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write("{\n")
        for key, value in ({"schema": MANIFEST_SCHEMA} | head).items():
            file.write(f"{json.dumps(key)}: {json.dumps(value)},\n")
        file.write('"samples": [')
        separator = "\n"
        for name, crc in samples:
            file.write(f"{separator}{json.dumps([name, crc])}")
            separator = ",\n"
        file.write("\n]\n}\n")


def _listing_crc(source: Source) -> int:
    """CRC-32 over labels and paths in the source's order: notices files that were added, removed or renamed."""
    crc = zlib.crc32(np.ascontiguousarray(source.labels, "<i8").tobytes())
    for position in range(len(source)):
        crc = zlib.crc32(source.relative_path(position).encode("utf-8", "surrogateescape") + b"\0", crc)
    return crc
