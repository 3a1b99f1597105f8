"""BYOL (Grill et al., NeurIPS 2020): a student predicts what a slow teacher says of the other view."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vicreg.branches import Branches, say_branches
from vicreg.config import (
    PretrainConfig,
    require,
)
from vicreg.expander import build_expander
from vicreg.loss_costs import cosines_cost
from vicreg.losses.directions import negative_cosine, spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.losses.variance_covariance import add_spread
from vicreg.method import Inputs, LossCost, Pass, Progress, TrainingData
from vicreg.methods.byol import Config
from vicreg.moving_average import follow, momentum_at, teacher_of


class Byol(Branches):
    """Each view is predicted from the other; the teacher follows after the optimizer's step."""

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        require(self.is_shared, "encoder_b", config.model.encoder_b, "none for byol")
        self.settings = settings
        dims = config.model.expander.split("-")[-1]
        self.predictor = build_expander(int(dims), f"{settings.predictor_width}-{dims}")
        self.teacher = teacher_of(self.student)

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is an average of: images in, embeddings out."""
        return nn.Sequential(self.encoder, self.expander)

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        with torch.no_grad():
            of_a, of_b = (self.teacher(view) for view in inputs.views)
        # |p - z|^2 = 2 - 2 cos of vectors of length 1; both directions are added.
        cosines = negative_cosine(self.predictor(embedded.a), of_b) + negative_cosine(self.predictor(embedded.b), of_a)
        terms = {"loss": 4 + 2 * cosines, "embedding_std": spread_of_directions(embedded.a, embedded.b)}
        return add_spread(terms, embedded.a, embedded.b, self.settings) | {"features": embedded.features}

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """The teacher follows what the step has made of the student."""
        momentum = momentum_at(self.settings.momentum, self.settings.final_momentum, progress)
        follow(self.teacher, self.student, momentum, taken)

    def passes(self) -> list[Pass]:
        """Each view through student and predictor, and through the teacher."""
        student = nn.Sequential(self.encoder, self.expander, self.predictor)
        return [
            way
            for view in range(NUM_VIEWS)
            for way in (Pass(student, view), Pass(self.teacher, view, has_gradient=False))
        ]


def build(config: PretrainConfig, data: TrainingData) -> Byol:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Byol(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return f"{say_branches(config)}, predictor {config.method.predictor_width}, a teacher"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. Embeddings, predictions, what the teacher says, and two gradients."""
    return cosines_cost(config, ranks, size, kept=5)
