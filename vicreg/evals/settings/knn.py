"""What the nearest neighbours are told; how they are counted: `evals/knn.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vicreg.checked import require


@dataclass(frozen=True)
class Config:
    """Source: the paper (appendix D.3, Table 11) measures 20 and 200 neighbours and does not say how they vote."""

    neighbours: tuple[int, ...] = (20, 200)
    """Numbers of neighbours that vote (paper, Table 11)."""
    votes: tuple[Literal["weighted", "unweighted"], ...] = ("weighted",)
    """weighted: a vote counts exp(similarity / temperature) (instance discrimination, Wu et al. 2018, and most since).
    unweighted: every vote counts 1, and of classes with equally many votes the one with the lowest number wins."""
    temperature: float = 0.1
    """Temperature of the weights (lightly's benchmarks; Wu et al. have 0.07)."""

    def __post_init__(self) -> None:
        require(len(self.neighbours) > 0, "neighbours", self.neighbours, "at least one number")
        require(min(self.neighbours) >= 1, "neighbours", self.neighbours, "1 or more")
        require(len(self.votes) > 0, "votes", self.votes, "weighted, unweighted")
        require(set(self.votes) <= {"weighted", "unweighted"}, "votes", self.votes, "weighted, unweighted")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
