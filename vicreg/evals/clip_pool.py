"""Clips of both splits as one set with folds: which are learned from and which measured on, and that none is on both.

The check is of recordings, not of files: two clips cut from one recording sound alike, and a network that has learned
from one knows the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.contract import Beton, open_beton
from vicreg.data.channels import clip_samples
from vicreg.data.decode import ImageReader
from vicreg.evals.features import Splits
from vicreg.evals.results import CannotMeasure

HELD_OUT, ALL_FOLDS = "held_out", "all_folds"


@dataclass(frozen=True)
class Division:
    """What a classifier learns from and what it is measured on, as numbers of clips, the training split's first."""

    part: str
    """HELD_OUT: the validation split alone; ALL_FOLDS: one of all folds of both splits together."""
    learned: NDArray[np.int64]
    measured: NDArray[np.int64]


@dataclass(frozen=True)
class ClipPool:
    """The clips of the training split, then those of the validation split."""

    betons: tuple[Beton, Beton]
    labels: NDArray[np.int64]
    """In the training set's numbers (N,)."""
    clip_samples: int
    _readers: tuple[ImageReader, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_readers", tuple(map(ImageReader, self.betons)))

    @classmethod
    def open(cls, splits: Splits) -> ClipPool:
        """Both splits; CannotMeasure where they are no sound, or have no labels."""
        splits.require_multi_label(False, "sound")
        train, val = open_beton(splits.beton("train")), open_beton(splits.beton("val"))
        for beton in (train, val):
            if not beton.pixels.is_sound:
                raise CannotMeasure(f"{beton.path} holds images, allowed for sound: clips (write_ffcv.py audio)")
        kinds = {(beton.pixels.rate_hz, clip_samples(beton)) for beton in (train, val)}
        if len(kinds) > 1:
            said = " and ".join(f"{length:,} samples at {rate_hz:,} Hz" for rate_hz, length in sorted(kinds))
            raise CannotMeasure(f"{train.path} and {val.path} have clips of {said}, allowed: the same")
        labels = np.concatenate([splits.labels("train"), splits.labels("val")]).astype(np.int64)
        return cls((train, val), labels, clip_samples(train))

    def numbers(self, name: str) -> NDArray[np.int64]:
        """`fold` or `recording` of every clip (N,)."""
        return np.concatenate([beton.clips[name] for beton in self.betons])

    def divisions(self) -> list[Division]:
        """The held-out split, and where all clips have folds, each fold in turn.

        CannotMeasure where a recording would be on both sides.
        """
        num_train = self.betons[0].num_samples
        clips, folds, recordings = np.arange(len(self.labels)), self.numbers("fold"), self.numbers("recording")
        found = [Division(HELD_OUT, clips[:num_train], clips[num_train:])]
        if folds.all() and len(np.unique(folds)) > 1:
            for fold in np.unique(folds):
                found.append(Division(ALL_FOLDS, clips[folds != fold], clips[folds == fold]))
        for division in found:
            both = np.intersect1d(recordings[division.learned], recordings[division.measured])
            if len(both):
                first = int(np.argmax(recordings == both[0]))
                raise CannotMeasure(
                    f"{len(both):,} recordings have clips on both sides, the first is that of clip {first:,}; allowed: "
                    "none (write_ffcv.py audio with --fold or --hold-out keeps them together)"
                )
            missing = np.setdiff1d(self.labels[division.measured], self.labels[division.learned])
            if len(missing):
                raise CannotMeasure(f"classes {missing.tolist()} are measured on, but none of their clips learned from")
        return found

    def read(self, clips: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> Tensor:
        """Stretches of these clips (n,), from these samples on: int16 (n, 1, length). BadSample for a damaged one."""
        found = torch.empty((len(clips), 1, length), dtype=torch.int16)
        num_train = self.betons[0].num_samples
        for row, (clip, start) in enumerate(zip(clips.tolist(), starts.tolist(), strict=True)):
            split = int(clip >= num_train)
            whole = self._readers[split].read(clip - split * num_train)[0, :, 0]
            found[row, 0] = torch.from_numpy(whole[start : start + length])
        return found
