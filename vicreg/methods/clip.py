"""InfoNCE as in CLIP (Radford et al., ICML 2021): an image finds its caption, and the caption its image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vicreg.branches import Branches, say_branches
from vicreg.config import MethodConfig, PretrainConfig
from vicreg.loss_costs import cross_modal_loss_cost
from vicreg.losses.contrastive import require_temperature
from vicreg.losses.cross_modal import both_ways_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.method import Inputs, LossCost, Progress, Published, Term, TrainingData
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


class Clip(Branches):
    """Both views through their branches, then InfoNCE both ways."""

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        terms = both_ways_loss(embedded.a, embedded.b, self.settings.temperature)
        return terms | {
            "embedding_std": spread_of_directions(embedded.a, embedded.b),
            "features": embedded.features,
        }


TERMS = {
    "loss": Term("Loss", "Cross-entropy of finding the other branch's row in the global batch.", "loss", 3),
    "positive_similarity": Term(
        "Similarity of pairs", "Mean cosine between the embeddings of what belongs together.", "sim", 3
    ),
    **SPREAD,
}


def build(config: PretrainConfig, data: TrainingData) -> Clip:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Clip(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return say_branches(config)


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    return cross_modal_loss_cost(config, ranks, size)


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
