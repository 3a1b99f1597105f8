"""What the regression on few labels is told; how it is fitted: `evals/few_labels.py`."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.checked import require


@dataclass(frozen=True)
class Config:
    """Source: this project; not a published protocol. The regression is scikit-learn's, fitted to its optimum."""

    label_counts: tuple[int, ...] = ()
    """Numbers of labelled images; none: 1, 5 and 10 for each class, and all where these are at most 5,000."""
    draws: int = 20
    """Random choices of the labelled images, over which mean and standard deviation are taken; all labels need one."""
    inverse_regularisation: float = 0.1
    """scikit-learn's C: the weight of the summed log-loss against half the squared norm of the weights."""
    max_iterations: int = 200
    """Iterations of Newton's method after which it gives up, and says so."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        enough = all(count >= 2 for count in self.label_counts)
        require(enough, "label_counts", self.label_counts, "2 or more (a class alone is no choice)")
        require(self.draws >= 1, "draws", self.draws, "1 or more")
        require(self.inverse_regularisation > 0, "inverse_regularisation", self.inverse_regularisation, "above 0")
        require(self.max_iterations >= 1, "max_iterations", self.max_iterations, "1 or more")
