"""What is measured while a run goes on, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vicreg.checked import require
from vicreg.stop_rule import MEASURES, stop_rules


@dataclass(frozen=True)
class OnlineConfig:
    """What is measured while a run goes on, on its own training and validation data."""

    every_epochs: int = 0
    """Epochs from one measurement to the next; 0 for none, and no head that learns beside the encoder."""
    lr: float = 5e-3
    """Learning rate at which the linear head begins (AdamW on standardised features); half a cosine to 0."""
    neighbours: int = 20
    """Nearest training images that vote; 0 for no such measurement."""
    stop_if: str = ""
    """Rules that end the run early, such as online_top1<30@20: if that is below 30 % after epoch 20; several are joined
    by commas. Also --stop-if."""
    keep_best: Literal["", "online_top1", "knn_top1"] = ""
    """Measure by which the best checkpoint stays, beside the newest ones. Also --keep-best."""

    def __post_init__(self) -> None:
        require(self.every_epochs >= 0, "every_epochs", self.every_epochs, "0 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.neighbours >= 0, "neighbours", self.neighbours, "0 or more")
        stop_rules(self.stop_if, self.every_epochs, self.neighbours)
        require(self.keep_best in ("", *MEASURES), "keep_best", self.keep_best, ", ".join(MEASURES))
        is_measured = bool(self.every_epochs) and (self.keep_best != "knn_top1" or self.neighbours > 0)
        measured = "empty where that is not measured; see --online.every-epochs and --online.neighbours"
        require(not self.keep_best or is_measured, "keep_best", self.keep_best, measured)
