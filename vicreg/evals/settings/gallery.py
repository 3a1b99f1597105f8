"""What the pictures of features are told; how they are chosen: `evals/gallery.py`."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.checked import require


@dataclass(frozen=True)
class Config:
    """None of it is published; the numbers of pictures bound the size of the result."""

    images: int = 1000
    """Validation images on the map, evenly chosen in the order of the beton; all of them if there are fewer."""
    queries: int = 12
    """Validation images whose nearest training images are shown, spread over the classes."""
    neighbours: int = 6
    """Nearest training images of each, by the cosine of their features."""
    perplexity: float = 30.0
    """Of t-SNE (scikit-learn's default); at most a third of the images."""
    seed: int = 0
    """Seed of the map."""

    def __post_init__(self) -> None:
        require(3 <= self.images <= 1000, "images", self.images, "3 to 1000")
        require(1 <= self.queries <= 12, "queries", self.queries, "1 to 12")
        require(1 <= self.neighbours <= 6, "neighbours", self.neighbours, "1 to 6")
        require(self.perplexity > 0, "perplexity", self.perplexity, "above 0")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
