"""InfoNCE as in CLIP (Radford et al., ICML 2021): an image finds its caption, and the caption its image."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.config import MethodConfig
from vicreg.losses.settings import require_temperature
from vicreg.method_file import Published, Term
from vicreg.presets import coco_captions, digit_captions
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """CLIP: the temperature, which is learned there from 0.07 on and stays here."""

    name: str = "clip"
    temperature: float = 0.07
    """What cosines are divided by."""

    def __post_init__(self) -> None:
        require_temperature(self.temperature)


TERMS = {
    "loss": Term("Loss", "Cross-entropy of finding the other branch's row in the global batch.", "loss", 3),
    "positive_similarity": Term(
        "Similarity of pairs", "Mean cosine between the embeddings of what belongs together.", "sim", 3
    ),
    **SPREAD,
}


RECIPES = {
    "coco-captions-clip": Published(
        source="ours: the setting of VSE++ on COCO captions with the loss of CLIP",
        expected="none is published",
        pretrain=coco_captions(Config(), expander="1024"),
    ),
    "digit-captions-clip": Published(
        source="ours: rendered digits and their names",
        expected="none is published",
        pretrain=digit_captions(Config()),
    ),
}
