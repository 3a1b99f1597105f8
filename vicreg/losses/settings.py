"""What losses are told, and its limits: apart from what computes, so that options are read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vicreg.config import require

LOWEST_TEMPERATURE = 0.025
"""Below it exp(-2 / T), the least of what is added up, would leave the range of float32."""
SMALLEST_EPSILON = 0.02
"""Cosines over a smaller one, exponentiated and summed over a batch, would leave float32's range."""


@dataclass(frozen=True)
class VicregLossConfig:
    """Weights and form of the three terms (paper, section 4.2; official code)."""

    invariance_weight: float = 25.0
    """Weight of the mean squared distance between the views' embeddings."""
    variance_weight: float = 25.0
    """Weight of the hinge on each dimension's standard deviation."""
    covariance_weight: float = 1.0
    """Weight of the squared off-diagonal covariances."""
    variance_weight_b: float | None = None
    """The same in the second branch, where that is another modality (paper, section 5.3); None: as in the first."""
    covariance_weight_b: float | None = None
    """The same in the second branch; None: as in the first."""
    variance_reduction: Literal["mean", "sum"] = "mean"
    """Over the two branches: mean as in the official code, sum as in the paper's equations (twice as large)."""
    target_std: float = 1.0
    """Standard deviation below which a dimension is pushed apart (gamma, paper, equation 1); 1 / sqrt(D) where
    embeddings have unit length (appendix D.5)."""
    form: Literal["auto", "samples", "dimensions", "features"] = "auto"
    """How the covariance term is computed, with the same result: by N x N products of rows that everybody gets, D x D
    moments, or N x N products of columns that the ranks exchange. auto: the one expected to be fastest here."""


@dataclass(frozen=True)
class BarlowTwinsLossConfig:
    """Weights and form of the loss."""

    redundancy_weight: float = 0.0051
    """Weight of the squared correlations between different dimensions (the paper's lambda)."""
    loss_scale: float = 1 / 32
    """What the sum is multiplied by. LARS does not feel it where it adapts the rate, biases and batch norm do: the
    official program's gradients are 1 / ranks of the loss's, and its rate of biases was found on 32 GPUs."""
    form: Literal["auto", "samples", "dimensions", "features"] = "auto"
    """How the correlations are computed, with the same result: by N x N products of rows that everybody gets, D x D
    moments, or N x N products of columns that the ranks exchange. auto: the one expected to be fastest here."""


@dataclass(frozen=True)
class SpreadConfig:
    """The two terms beside another method's loss (paper: 1 and 0.01 beside BYOL's and SimSiam's)."""

    variance_weight: float = 0.0
    """Weight of the hinge on each dimension's standard deviation, added over both views' embeddings."""
    covariance_weight: float = 0.0
    """Weight of the squared off-diagonal covariances, added over both."""
    spread_of: Literal["raw", "normalised"] = "raw"
    """raw: of embeddings as they are, with the hinge at 1. normalised: of embeddings brought to length 1, with the
    hinge at 1 / sqrt(D), where that of evenly spread directions is."""

    def __post_init__(self) -> None:
        for name in ("variance_weight", "covariance_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


def require_temperature(temperature: float) -> None:
    """ValueError for one whose exponentials float32 does not hold."""
    require(temperature >= LOWEST_TEMPERATURE, "temperature", temperature, f"{LOWEST_TEMPERATURE} or more")
