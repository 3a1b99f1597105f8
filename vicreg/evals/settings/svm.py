"""What linear SVMs are told; how they are fitted: `evals/svm.py`."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.checked import require
from vicreg.view_config import Framing


@dataclass(frozen=True)
class Config:
    """Source: VISSL's VOC2007 configuration and code; squared hinge loss and squared norm are fixed, as there.

    The paper (appendix C.3) only says: linear SVMs with LIBLINEAR, costs by cross-validation.
    """

    costs: tuple[float, ...] = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
    """scikit-learn's C, of which each class takes the best; of equally good ones the first (VISSL, costs_list)."""
    folds: int = 3
    """Parts of the training images for cross-validation (VISSL, cross_val_folds)."""
    positive_weight: float = 2.0
    """Weight of the images that show the class; the others have 1 (VISSL's code)."""
    dual: bool = True
    """Solve the dual problem (VISSL); the primal has the same optimum, and liblinear gets nearer to it."""
    max_iterations: int = 2000
    """Iterations after which the solver gives up; how many fits did is said (VISSL)."""
    tolerance: float = 1e-4
    """The solver's stopping criterion (VISSL)."""
    intercept_scaling: float = 1.0
    """Value of the constant feature whose weight is the intercept, penalised like the others (VISSL)."""
    norm_offset: float = 1e-5
    """Features x become x / (||x|| + this) (VISSL)."""
    framing: Framing = "crop"
    """crop: the centre of the image (paper, appendix C.3: "center cropped"). squash: all of it, resized to a square
    without keeping its proportions (VISSL)."""
    seed: int = 0
    """Seed of the solver, the same for every fit (VISSL has none)."""

    def __post_init__(self) -> None:
        require(len(self.costs) > 0, "costs", self.costs, "at least one number")
        require(min(self.costs) > 0, "costs", self.costs, "above 0")
        require(len(set(self.costs)) == len(self.costs), "costs", self.costs, "each number once")
        require(self.folds >= 2, "folds", self.folds, "2 or more")
        require(self.positive_weight > 0, "positive_weight", self.positive_weight, "above 0")
        require(self.max_iterations >= 1, "max_iterations", self.max_iterations, "1 or more")
        require(self.tolerance > 0, "tolerance", self.tolerance, "above 0")
        require(self.intercept_scaling > 0, "intercept_scaling", self.intercept_scaling, "above 0")
        require(self.norm_offset > 0, "norm_offset", self.norm_offset, "above 0")
        require(self.framing in ("crop", "squash"), "framing", self.framing, "crop, squash")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
