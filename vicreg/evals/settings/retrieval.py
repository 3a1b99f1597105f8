"""What captions and images looked for in each other are told; how they are found: `evals/retrieval.py`."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.checked import require


@dataclass(frozen=True)
class Config:
    """Recall and folds as published; how many queries are shown is ours."""

    recalls: tuple[int, ...] = (1, 5, 10)
    """Recall is counted among so many first ones."""
    folds: int = 5
    """Parts that are measured alone where there are as many images; their mean is the 1K setting."""
    fold_images: int = 1000
    """Images of each."""
    shown: int = 6
    """Images, and captions, for which the report shows what is found first."""

    def __post_init__(self) -> None:
        require(bool(self.recalls) and min(self.recalls) >= 1, "recalls", self.recalls, "numbers of 1 or more")
        require(self.folds >= 1, "folds", self.folds, "1 or more")
        require(self.fold_images >= 1, "fold_images", self.fold_images, "1 or more")
        require(0 <= self.shown <= 12, "shown", self.shown, "0 to 12")
