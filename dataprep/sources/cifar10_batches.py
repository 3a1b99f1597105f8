"""CIFAR-10's published python batches, read without trusting them: only arrays, bytes, numbers, lists and dicts."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataprep.sources import published
from dataprep.writing.raw_source import Source, SourceError

FOLDER = "cifar-10-batches-py"
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


class _ArrayUnpickler(pickle.Unpickler):
    """A pickle may run any function of any module; this one may build numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _ARRAY_MODULES and name == "_reconstruct":
            return _reconstruct
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which no CIFAR-10 batch needs")


def _reconstruct(kind: type[NDArray[Any]], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """The empty array that numpy's pickles begin with."""
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in old pickle protocols."""
    return text.encode("latin1")


def open_split(root: Path, split: str) -> Source:
    """The 50,000 (`train`) or 10,000 (`test`, `val`) images of the batches in `root` or `root/cifar-10-batches-py`."""
    base = root / FOLDER if (root / FOLDER).is_dir() else root
    batches = _BATCHES["train" if split == "train" else "test"]
    missing = [name for name in batches if not (base / name).is_file()]
    if missing:
        raise SourceError(
            f"{root} holds neither {split}/<class>/<images> nor {FOLDER}/{missing[0]}; expected one of them "
            f"(the second is what {published.CIFAR10} unpacks to)"
        )
    loaded = [_read_batch(base / name) for name in batches]
    pixels = np.concatenate([batch[0] for batch in loaded])
    labels = np.concatenate([batch[1] for batch in loaded])
    names = [name for batch in loaded for name in batch[2]]
    classes = _class_names(base)
    if labels.min() < 0 or labels.max() >= len(classes):
        raise SourceError(f"{base}: labels go from {labels.min()} to {labels.max()}, allowed: 0 to {len(classes) - 1}")
    return Source(
        name="cifar10",
        root=str(root),
        split=split,
        classes=classes,
        labels=labels,
        relative_path=lambda sample: f"{classes[labels[sample]]}/{names[sample]}",
        content=lambda sample: np.ascontiguousarray(pixels[sample].reshape(3, 32, 32).transpose(1, 2, 0)),
        default_write_mode="raw",
    )


def _read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Pixels (n x 3072, channel by channel), labels and file names of one batch."""
    batch = _unpickle(path)
    try:
        pixels, labels = np.asarray(batch[b"data"], dtype=np.uint8), np.asarray(batch[b"labels"], dtype=np.int64)
        names = [name.decode("ascii", "replace") for name in batch[b"filenames"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{path} is no CIFAR-10 batch (data, labels, filenames): {error!r}") from error
    if pixels.shape != (len(labels), 3072) or len(names) != len(labels):
        raise SourceError(f"{path}: {pixels.shape} pixels, {len(labels)} labels, {len(names)} names do not match")
    return pixels, labels, names


def _class_names(base: Path) -> tuple[str, ...]:
    """From batches.meta where it is there; the labels number the names in sorted order."""
    if not (base / "batches.meta").is_file():
        return _CLASSES
    listed = _unpickle(base / "batches.meta").get(b"label_names", [])
    is_list = isinstance(listed, list) and all(isinstance(name, bytes) for name in listed)
    names = tuple(name.decode("ascii", "replace") for name in listed) if is_list else ()
    if not names or list(names) != sorted(names):
        raise SourceError(
            f"{base / 'batches.meta'}: label_names are {names}, expected the ten sorted names of CIFAR-10"
        )
    return names


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        loaded = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises every kind
        raise SourceError(
            f"{path} cannot be read ({type(error).__name__}: {error}); unpack the archive again"
        ) from error
    if not isinstance(loaded, dict):
        raise SourceError(f"{path} holds a {type(loaded).__name__}, expected a dict; unpack the archive again")
    return loaded
