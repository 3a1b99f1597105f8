"""What every raw data set looks like to the writer: labels, and where each sample's content and name are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataprep.images import WriteMode
from dataprep.sample_encoding import Content


class SourceError(ValueError):
    """The raw data are not where or what they should be; the message says what was expected where."""


@dataclass(frozen=True)
class Source:
    """An indexed data set: sample i has `labels[i]`, `relative_path(i)` and `content(i)`."""

    name: str
    root: str
    """Absolute folder, or the package that holds the data."""
    split: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    relative_path: Callable[[int], str]
    content: Callable[[int], Content]
    default_write_mode: WriteMode = "passthrough"

    def __len__(self) -> int:
        return len(self.labels)
