"""SimSiam (Chen, He, CVPR 2021): each view's prediction of the other one, whose own gradient is stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from vicreg.branches import Branches, say_branches
from vicreg.config import DataConfig, MethodConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, require
from vicreg.loss_costs import cosines_cost
from vicreg.losses.directions import negative_cosine, spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.losses.variance_covariance import SpreadConfig, add_spread
from vicreg.method import Inputs, LossCost, ParameterGroup, Pass, Progress, Published, Term, TrainingData
from vicreg.presets import CIFAR10, CIFAR100, SGD, moco_v2_view, solo_learn_cifar
from vicreg.shared_terms import REGULARISED, SPREAD

Norm = Literal["plain", "none"]


@dataclass(frozen=True)
class Config(SpreadConfig, MethodConfig):
    """SimSiam: predictor (paper, section 3; official code), VICReg's terms if weighted."""

    name: str = "simsiam"
    predictor_width: int = 512
    """Of the predictor's hidden layer, which has batch norm where the expander has; 0: no predictor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.predictor_width >= 0, "predictor_width", self.predictor_width, "0 (none) or more")


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


TERMS = {
    "loss": Term("Loss", "Minus the cosine between prediction and embedding, mean of both directions.", "loss"),
    **SPREAD,
    **REGULARISED,
}


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


def _imagenet(epochs: int, batch: int, warmup: float = 0.0, norm: Norm = "plain", **settings: Any) -> PretrainConfig:
    bias: Literal["none", "all"] = "none" if norm == "plain" else "all"
    return PretrainConfig(
        Config(**settings),
        views=(moco_v2_view(), moco_v2_view()),
        model=ModelConfig(expander="2048-2048-2048", expander_bias=bias, expander_norm=norm),
        optimizer=OptimizerConfig(
            name="sgd", base_lr=0.05, weight_decay=1e-4, warmup_epochs=warmup, final_lr_ratio=0.0
        ),
        train=TrainConfig(epochs=epochs, global_batch=batch),
    )


def _cifar(data: DataConfig) -> PretrainConfig:
    view = moco_v2_view(crop_scale=(0.08, 1.0))
    return solo_learn_cifar(
        Config(),
        (view, view),
        data,
        optimizer=SGD | {"base_lr": 0.5, "weight_decay": 1e-5},
        expander_bias="none",
        expander_norm="plain",
    )


_OFFICIAL = "SimSiam, paper and official code: ResNet-50, expander 2048-2048-2048, predictor 512, SGD, rate 0.05"
_TABLE_4 = (
    "VICReg's paper, section 5.1, appendix C.4 and Table 4: SimSiam with batch 2048, 10 epochs of warm-up, 100 "
    "epochs{}{}"
)
_WITH: dict[str, tuple[str, dict[str, Any]]] = {
    "": ("", {}),
    "-var": (", with the variance term (weight 1)", {"variance_weight": 1.0}),
    "-var-cov": (
        ", with the variance (weight 1) and covariance (0.01) terms",
        {"variance_weight": 1.0, "covariance_weight": 0.01},
    ),
}
_WITHOUT: dict[str, tuple[str, dict[str, Any], tuple[str, str, str]]] = {
    "simsiam-batch2048": ("", {}, ("67.9 %", "68.1 %", "67.6 %")),
    "simsiam-no-norm": (
        ", no batch norm in expander and predictor",
        {"norm": "none"},
        ("35.1 %", "67.3 %", "67.1 %"),
    ),
    "simsiam-no-predictor": (
        ", neither predictor nor batch norm in the expander",
        {"norm": "none", "predictor_width": 0},
        ("a collapse", "56.8 %", "66.1 %"),
    ),
}
_SOLO_LEARN = (
    "solo-learn, scripts/pretrain/cifar/simsiam.yaml: ResNet-18 for small images, batch 256, 1000 epochs; residual "
    "branches begin at zero here, not there"
)

RECIPES = {
    "simsiam": Published(
        source=f"{_OFFICIAL}, batch 512, 100 epochs",
        expected="linear top-1 68.1 % (official README; 68.3 % with batch 256)",
        pretrain=_imagenet(100, 512),
    ),
    "simsiam-800ep": Published(
        source=f"{_OFFICIAL}, batch 256, 800 epochs",
        expected="linear top-1 71.3 % (its paper, Table 4; VICReg's Table 1)",
        pretrain=_imagenet(800, 256),
    ),
    **{
        f"{name}{suffix}": Published(
            source=_TABLE_4.format(without, added),
            expected=f"linear top-1 {found} (VICReg's Table 4)",
            pretrain=_imagenet(100, 2048, 10.0, **changed, **weights),
        )
        for name, (without, changed, row) in _WITHOUT.items()
        for (suffix, (added, weights)), found in zip(_WITH.items(), row, strict=True)
    },
    "cifar10-simsiam": Published(
        source=_SOLO_LEARN,
        expected="90.51 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR10),
    ),
    "cifar100-simsiam": Published(
        source=_SOLO_LEARN,
        expected="66.04 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR100),
    ),
}
