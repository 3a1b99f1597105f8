"""SimSiam (Chen, He, CVPR 2021): each view's prediction of the other one, whose own gradient is stopped."""

from __future__ import annotations

from torch import Tensor, nn

from vicreg.branches import Branches, say_branches
from vicreg.config import PretrainConfig, require
from vicreg.loss_costs import cosines_cost
from vicreg.losses.directions import negative_cosine, spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.losses.variance_covariance import add_spread
from vicreg.method import Inputs, LossCost, ParameterGroup, Pass, Progress, TrainingData
from vicreg.methods.simsiam import Config


class SimSiam(Branches):
    """Both views through their branch, each predicted from the other; targets have no gradient."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        require(self.is_shared, "encoder_b", config.model.encoder_b, "none for simsiam")
        self.settings = settings
        dims = int(config.model.expander.split("-")[-1])
        self.predictor = _predictor(dims, settings.predictor_width, config.model.expander_norm != "none")

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        of_a, of_b = self.predictor(embedded.a), self.predictor(embedded.b)
        loss = (negative_cosine(of_a, embedded.b) + negative_cosine(of_b, embedded.a)) / NUM_VIEWS
        terms = {"loss": loss, "embedding_std": spread_of_directions(embedded.a, embedded.b)}
        return add_spread(terms, embedded.a, embedded.b, self.settings) | {"features": embedded.features}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Weight decay on all, and the predictor's rate stays at its peak, as in the official program."""
        learned = [*self.encoder.parameters(), *self.expander.parameters()]
        predicting = list(self.predictor.parameters())
        return [ParameterGroup(learned), ParameterGroup(predicting, follows_schedule=False)]

    def passes(self) -> list[Pass]:
        """Each view, forward and backward."""
        network = nn.Sequential(self.encoder, self.expander, self.predictor)
        return [Pass(network, view) for view in range(NUM_VIEWS)]


def _predictor(dims: int, width: int, has_norm: bool) -> nn.Sequential:
    if width == 0:
        return nn.Sequential()
    hidden = [nn.Linear(dims, width, bias=not has_norm), *([nn.BatchNorm1d(width)] if has_norm else [])]
    return nn.Sequential(*hidden, nn.ReLU(inplace=True), nn.Linear(width, dims))


def build(config: PretrainConfig, data: TrainingData) -> SimSiam:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return SimSiam(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return f"{say_branches(config)}, predictor {config.method.predictor_width or 'none'}"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. Embeddings, predictions and the gradients of both."""
    return cosines_cost(config, ranks, size, kept=4)
