"""Frozen features of a split: what the encoder says about every image, each exactly once, in the order of the beton.

They stand apart because several evaluations ask for the same features: a `Splits` computes those of one encoder and
split once and keeps them for as long as the encoder lives. A rank holds its own rows, so that 1.28 million features
fit; whoever needs others' rows fetches them with `Features.rows`. Batches have the same composition on any number of
ranks, and with it the features have the same bits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dataprep.beton.contract import open_beton
from dataprep.beton.manifest import has_labels
from vicreg.config import DataConfig, Precision
from vicreg.data.channels import require_channels
from vicreg.evals.data_identity import FRAMED_BY, fingerprint, match_classes
from vicreg.evals.encoding import Encoding
from vicreg.evals.framed_images import HeldImages, agreed_batch, framed_batches
from vicreg.evals.kept_features import KeptFeatures
from vicreg.evals.results import CannotMeasure
from vicreg.exchange.encoder_file import checksum
from vicreg.model import num_features
from vicreg.ranks import distributed
from vicreg.view_config import Framing
from vicreg.views.order import shard
from vicreg.views.sound import normalised

log = logging.getLogger(__name__)

SplitName = Literal["train", "val"]
SAY_EVERY_S = 30.0


class Pixels(nn.Module):
    """The baseline without an encoder: the features of an image are its normalised pixels."""

    def __init__(self, image_size: int, channels: int = 3) -> None:
        super().__init__()
        self.num_features = channels * image_size * image_size

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) to (B, C * S * S)."""
        return images.flatten(1)


@dataclass(frozen=True, eq=False)
class Features:
    """The features of one split: this rank's rows, and everybody's labels."""

    values: Tensor
    """float32 on the CPU: rows first_rows[rank] to first_rows[rank + 1] of (num_samples, num_features)."""
    labels: Tensor
    """On the CPU, complete on every rank: classes, int64 (num_samples,); where images have several classes,
    int8 (num_samples, num_classes) with 1 for present, 0 for present but difficult only, -1 for absent."""
    first_rows: tuple[int, ...]
    """Where each rank's rows begin, and at the end the number of samples."""
    belongs_to: dict[str, object] = field(default_factory=dict)
    """All that this rank's rows depend on, JSON-able, where work is kept in parts."""

    @property
    def first_row(self) -> int:
        """Number of this rank's first row."""
        return self.first_rows[distributed.rank()]

    @property
    def own_labels(self) -> Tensor:
        """Labels of this rank's rows."""
        return self.labels[self.first_row : self.first_row + len(self.values)]

    def rows(self, samples: NDArray[np.int64], device: torch.device) -> Tensor:
        """The features (len(samples), num_features) of these samples, in this order, on every rank's `device`.

        All ranks must ask together and for the same samples.
        """
        by_sample = np.argsort(samples, kind="stable")
        wanted = samples[by_sample]
        edges = np.searchsorted(wanted, self.first_rows)
        own = wanted[edges[distributed.rank()] : edges[distributed.rank() + 1]] - self.first_row
        found = self.values[torch.from_numpy(own)].to(device)
        gathered = distributed.gather_uneven_rows(found, np.diff(edges).tolist())
        return gathered[torch.from_numpy(np.argsort(by_sample)).to(device)]

    def all_rows(self, device: torch.device) -> Tensor:
        """All features (num_samples, num_features), in order, on every rank's `device`."""
        return self.rows(np.arange(len(self.labels), dtype=np.int64), device)


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Splits:
    """What an evaluation measures on: training and validation betons, and where the work is done."""

    data: DataConfig
    num_classes: int
    device: torch.device
    workers: int
    """Decoding threads of this rank."""
    batch: int = 128
    """Images that pass through the encoder at once when features are computed; more in half precision on a GPU, as
    its free memory allows."""
    precision: Precision = "float32"
    """Arithmetic of the encoder; auto: half precision on a GPU."""
    framing: Framing = "crop"
    """How an image becomes a square when features are computed."""
    multi_label: bool = False
    """Whether an image may show several classes."""
    has_labels: bool = True
    val_classes: tuple[int, ...] = ()
    """The training set's number of each class of the validation set; empty where both count alike."""
    parts: Path | None = None
    """Where features, and what is made of them, are kept in parts while they are computed; None: nowhere."""
    shared: Path | None = None
    """Where features are kept instead for the jobs that may share them."""
    held: HeldImages | None = None
    """Images that are held on the device for the next measurement."""
    heard: Callable[[], None] = _nothing
    """Told now and then that the work gets on."""
    _kept: WeakKeyDictionary[nn.Module, dict[str, Features]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def beton(self, split: SplitName) -> Path:
        """The file of a split."""
        return Path(self.data.train if split == "train" else self.data.val)

    def labels(self, split: SplitName) -> NDArray[Any]:
        """What the beton of a split says of its images, in the training set's classes; (N, 0) where it says nothing."""
        labels = open_beton(self.beton(split)).labels
        if not self.has_labels:
            return np.empty((len(labels), 0), np.int8)
        return _renumbered(labels, self.val_classes, self.num_classes) if split == "val" else labels

    def require_multi_label(self, wanted: bool, evaluation: str) -> None:
        """CannotMeasure where there are no labels, or not of the kind that an evaluation measures."""
        if not self.has_labels:
            without = [path for path in (self.data.train, self.data.val) if not has_labels(Path(path))]
            raise CannotMeasure(
                f"{' and '.join(without)} has images without labels, which {evaluation} needs; write them with labels "
                "(dataprep/write_ffcv.py folder --help), or measure on other data with --data.train and --data.val"
            )
        if self.multi_label and not wanted:
            raise CannotMeasure(
                f"{self.data.train} has images that show several of {self.num_classes} classes, allowed for "
                f"{evaluation}: one class per image; the evaluation of such data is svm"
            )
        if wanted and not self.multi_label:
            raise CannotMeasure(
                f"{self.data.train} has one class per image, allowed for {evaluation}: labels that say of each class "
                "whether it is present (such as VOC2007's); evaluations of such data are linear, knn and few_labels"
            )

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S), or sound (B, 1, L), of a loader as the encoder's float32 input, on the device."""
        if images.dtype == torch.int16:
            return normalised(images.to(self.device, non_blocking=True), self.data.std[0])
        is_rgb = images.dtype == torch.uint8
        images = images.to(self.device, non_blocking=True).to(torch.float32)
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1) for values in (self.data.mean, self.data.std)
        )
        return ((images / 255 if is_rgb else images) - mean) / std

    def features(self, encoder: nn.Module, split: SplitName) -> Features:
        """The encoder's features of a split, computed at the first call; all ranks must ask together."""
        kept = self._kept.setdefault(encoder, {})
        if split not in kept:
            kept[split] = compute_features(encoder, self, split)
        return kept[split]


def open_splits(data: DataConfig, device: torch.device, workers: int) -> Splits:
    """Both splits, with the number of classes taken from their labels.

    Raises BetonError when a file is missing or damaged, ValueError when the labels are not classes, or of the two
    splits not the same ones. Classes are matched by the names in the betons' manifests: a class that the validation
    set lacks shifts the numbers of all that follow.
    """
    betons = [open_beton(Path(path)) for path in (data.train, data.val)]
    for beton in betons:
        require_channels(data, beton)
    train, val = (beton.labels for beton in betons)
    if not (has_labels(Path(data.train)) and has_labels(Path(data.val))):
        return Splits(data, 0, device, workers, has_labels=False)
    by_name = match_classes(data)
    if train.ndim == 2 or val.ndim == 2:
        num_classes = train.shape[1] if train.ndim == 2 else 0
        val = _renumbered(val, by_name, num_classes) if val.ndim == 2 else val
        _check_multi_labels(data, train, val)
        return Splits(data, num_classes, device, workers, multi_label=True, val_classes=by_name)
    num_classes = int(train.max()) + 1
    val = _renumbered(val, by_name, num_classes)
    for path, labels in ((data.train, train), (data.val, val)):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{path} has labels from {low} to {high}, allowed: the training set's, 0 to {num_classes - 1}"
            )
    if num_classes < 2:
        raise ValueError(f"{data.train} has {num_classes} class, allowed: 2 or more")
    return Splits(data, num_classes, device, workers, val_classes=by_name)


def _renumbered(labels: NDArray[Any], classes: tuple[int, ...], num_classes: int) -> NDArray[Any]:
    """Labels in the training set's numbers; of images with several classes, columns in its order, absent if unknown."""
    if not classes:
        return labels
    if labels.ndim == 1:
        numbers: NDArray[Any] = np.asarray(classes, labels.dtype)
        return np.take(numbers, labels)
    found = np.full((len(labels), num_classes), -1, labels.dtype)
    found[:, list(classes)] = labels
    return found


def _check_multi_labels(data: DataConfig, train: NDArray[Any], val: NDArray[Any]) -> None:
    """ValueError unless both are (num_samples, num_classes) of -1, 0 and 1, for equally many classes."""
    if train.shape[1:] != val.shape[1:]:
        columns = [f"{labels.shape[1]} numbers" if labels.ndim == 2 else "1 class" for labels in (train, val)]
        raise ValueError(f"{data.train} has {columns[0]} per image and {data.val} {columns[1]}, allowed: the same")
    for path, labels in ((data.train, train), (data.val, val)):
        unknown = np.setdiff1d(labels, (-1, 0, 1))
        if len(unknown):
            found = ", ".join(map(str, unknown[:5]))
            raise ValueError(f"{path} has labels {found}, allowed: 1 (present), 0 (difficult), -1 (absent)")


@torch.no_grad()
def compute_features(encoder: nn.Module, splits: Splits, split: SplitName) -> Features:
    """Features of the whole split, the encoder in eval mode; ValueError when some are not finite."""
    path, world_size = splits.beton(split), distributed.world_size()
    stored = splits.labels(split)
    labels = torch.from_numpy(np.asarray(stored, dtype=np.int8 if stored.ndim == 2 else np.int64))
    encoding = Encoding(encoder, splits.device, splits.precision, len(labels) // world_size)
    batch = agreed_batch(encoding, splits.data, splits.batch, splits.device)
    num_batches = -(-len(labels) // batch)
    first_batches = [shard(num_batches, rank, world_size).start for rank in range(world_size)] + [num_batches]
    first_rows = tuple(min(number * batch, len(labels)) for number in first_batches)
    own = range(first_rows[distributed.rank()], first_rows[distributed.rank() + 1])

    values = torch.empty((len(own), num_features(encoder)), dtype=torch.float32)
    folder = splits.shared or splits.parts
    belongs_to = _belongs_to(encoder, encoding, splits, path) if folder else {}
    kept = KeptFeatures(folder, belongs_to, own, len(labels) * values.shape[1] * values.itemsize)
    said = time.monotonic()
    for rows in kept.load(values):
        begin = done = rows.start
        for images in framed_batches(
            splits.data,
            path,
            rows,
            batch_size=batch,
            workers=splits.workers,
            framing=splits.framing,
            device=splits.device,
            held=splits.held,
        ):
            place = done - own.start
            values[place : place + len(images)] = encoding(splits.normalise(images)).cpu()
            done += len(images)
            splits.heard()
            if kept.keep_if_due(values, range(begin, done)):
                begin = done
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                log.info("features of %s: %s of this rank's %s", split, f"{done - own.start:,}", f"{len(own):,}")
        assert done == rows.stop, (done, rows)
        kept.keep(values, range(begin, done))
    if distributed.any_rank(not bool(torch.isfinite(values).all())):
        raise ValueError(f"features of {path} are not all finite: the encoder is damaged or has diverged")
    return Features(values, labels, first_rows, belongs_to and belongs_to | {"rows": [own.start, own.stop]})


def _belongs_to(encoder: nn.Module, encoding: Encoding, splits: Splits, path: Path) -> dict[str, object]:
    """What a split's features depend on."""
    framed = {name: getattr(splits.data, name) for name in FRAMED_BY} | {"framing": splits.framing}
    computed = {"batch": splits.batch, "dtype": str(encoding.dtype), "device": splits.device.type}
    weights = {"weights": checksum(encoder), "kind": type(encoder).__name__}
    return {"beton": fingerprint(open_beton(path)), **weights, **computed, **framed}
