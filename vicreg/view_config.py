"""How views are made of an image, as a run is told: a frozen dataclass, and the published pairs of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from vicreg.checked import require
from vicreg.sound_config import SoundViewConfig

Framing = Literal["crop", "squash"]
"""How a whole image becomes a square: its centre is cut out, or it is resized without keeping its proportions."""


@dataclass(frozen=True)
class ViewConfig:
    """How views of one kind are made of an image; the operations run in the order of the fields."""

    image_size: int = 0
    """Side in pixels; 0 takes data.image_size."""
    count: int = 1
    """How many such views of each image."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a crop covers, smallest and largest."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a crop, smallest and largest."""
    rotation_deg: float = 0.0
    """Rotation about the centre, drawn from (-x, x) degrees."""
    hflip_p: float = 0.5
    """Probability of a horizontal flip."""
    jitter_p: float = 0.8
    """Probability of colour jitter: the four changes below in random order."""
    brightness: float = 0.4
    """Brightness factor drawn from (1 - x, 1 + x)."""
    contrast: float = 0.4
    """Contrast factor drawn from (1 - x, 1 + x)."""
    saturation: float = 0.2
    """Saturation factor drawn from (1 - x, 1 + x)."""
    hue: float = 0.1
    """Hue shift drawn from (-x, x) turns of the colour wheel."""
    grayscale_p: float = 0.2
    """Probability of losing all colour."""
    blur_p: float = 1.0
    """Probability of a Gaussian blur."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels, smallest and largest."""
    solarize_p: float = 0.0
    """Probability of inverting every value of 128 and above."""
    rand_augment: int = 0
    """Operations of RandAugment, each drawn from 15 and done with probability 1/2; 0 is none."""
    rand_magnitude: float = 10.0
    """How strong they are, from 0 to 10."""
    sound: SoundViewConfig = field(default_factory=SoundViewConfig)
    """Views of sound, of which all the above but `count` says nothing."""

    def __post_init__(self) -> None:
        require(self.image_size == 0 or self.image_size >= 8, "image_size", self.image_size, "0, or 8 pixels or more")
        require(self.count >= 0, "count", self.count, "0 (none) or more")
        low, high = self.crop_scale
        require(0 < low <= high <= 1, "crop_scale", self.crop_scale, "0 < smallest <= largest <= 1")
        low, high = self.crop_ratio
        require(0 < low <= high, "crop_ratio", self.crop_ratio, "0 < smallest <= largest")
        low, high = self.blur_sigma_px
        require(0 < low <= high, "blur_sigma_px", self.blur_sigma_px, "0 < smallest <= largest")
        for name in ("hflip_p", "jitter_p", "grayscale_p", "blur_p", "solarize_p"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a probability from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        require(0 <= self.hue <= 0.5, "hue", self.hue, "from 0 to 0.5 turns")
        require(0 <= self.rand_augment <= 15, "rand_augment", self.rand_augment, "0 (none) to 15 operations")
        require(0 <= self.rand_magnitude <= 10, "rand_magnitude", self.rand_magnitude, "from 0 to 10")
        require(0 <= self.rotation_deg <= 180, "rotation_deg", self.rotation_deg, "from 0 to 180 degrees")


def without_colours(view: ViewConfig) -> ViewConfig:
    """The same for channels that are no colours: what mixes or names colours, and solarising, is left out."""
    return replace(view, saturation=0.0, hue=0.0, grayscale_p=0.0, solarize_p=0.0, rand_augment=0)


def require_no_colours(views: tuple[ViewConfig, ...]) -> None:
    """ValueError, naming the option, for changes of colours that channels do not have."""
    for number, view in enumerate(views):
        jitter = ("saturation", "hue") if view.jitter_p else ()
        for name in (*jitter, "grayscale_p", "solarize_p", "rand_augment"):
            value = getattr(view, name)
            require(value == 0, f"views.{number}.{name}", value, "0 for images that are not RGB")


def official_views() -> tuple[ViewConfig, ViewConfig]:
    """The official code's asymmetric pair (BYOL's): the first always blurred, the second rarely, but solarised."""
    return ViewConfig(), ViewConfig(blur_p=0.1, solarize_p=0.2)


def paper_views() -> tuple[ViewConfig, ViewConfig]:
    """The paper's text (appendix C.1): both views alike, with nearly the same average probabilities."""
    view = ViewConfig(blur_p=0.5, solarize_p=0.1)
    return view, view


def each_view(views: tuple[ViewConfig, ...], image_size: int) -> tuple[ViewConfig, ...]:
    """One entry for each view of an image, with its size: a view's place here is its number, which keys its draws."""
    return tuple(
        replace(view, image_size=view.image_size or image_size, count=1) for view in views for _ in range(view.count)
    )
