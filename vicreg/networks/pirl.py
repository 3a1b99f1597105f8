"""PIRL (Misra and van der Maaten, CVPR 2020): an image and its shuffled patches find their entry of a memory bank."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from vicreg.config import PretrainConfig, require
from vicreg.expander import build_expander
from vicreg.losses.contrastive import at_least_float32, queue_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.memory_bank import MemoryBank, bank_cost
from vicreg.method import Inputs, LossCost, Method, Pass, Progress, TrainingData
from vicreg.methods.pirl import Config
from vicreg.model import build_model, num_features
from vicreg.patches import Jigsaw, global_draws


class Pirl(Method):
    """The first view whole, the second in patches; both are to be close to the bank's entry of their image."""

    def __init__(self, config: PretrainConfig, settings: Config, data: TrainingData) -> None:
        super().__init__()
        views, name = config.each_view, settings.name
        require(len(views) == NUM_VIEWS, "views", f"{len(views)} of an image", f"{NUM_VIEWS} for {name}")
        require(not config.model.encoder_b, "encoder_b", config.model.encoder_b, f"none for {name}")
        self.settings, self.seed = settings, config.train.seed
        self.encoder, self.expander = build_model(config.model)
        model, dims = config.model, int(config.model.expander.split("-")[-1])
        self.patch_head = build_expander(
            num_features(self.encoder), model.expander, model.expander_bias, model.expander_norm
        )
        self.joint_head = nn.Linear(settings.cells**2 * dims, dims)
        self.bank = MemoryBank(data.num_samples, dims, settings.bank_momentum)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """One."""
        return {"a": self.encoder}

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        settings = self.settings
        image, patches = inputs.views
        features = self.encoder(image)
        embedded = self.expander(features)
        seed = 2 * ((self.seed << 32) + progress.step)
        draws = global_draws(len(image), (settings.cells**2, 3), seed, image.device)
        of_patches = self._jigsaw()(patches, draws)
        own = self.bank.own(inputs.samples)
        others = self.bank.others(inputs.samples, settings.num_negatives, seed + 1)
        of_image = queue_loss(embedded, own, others, settings.temperature)
        of_jigsaw = queue_loss(of_patches, own, others, settings.temperature)
        unit = functional.normalize(at_least_float32(embedded.detach()))
        self._seen = inputs.samples, unit
        weight = settings.jigsaw_weight
        return {
            "loss": (1 - weight) * of_image["loss"] + weight * of_jigsaw["loss"],
            "image_loss": of_image["loss"].detach(),
            "jigsaw_loss": of_jigsaw["loss"].detach(),
            "embedding_std": spread_of_directions(unit),
            "features": features.detach(),
        }

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """The image's embedding into its entry of the bank."""
        self.bank.follow(*self._seen, taken)

    def _jigsaw(self) -> Jigsaw:
        settings = self.settings
        return Jigsaw(self.encoder, self.patch_head, self.joint_head, settings.cells, settings.patch_share)

    def passes(self) -> list[Pass]:
        """The image, and its patches."""
        return [Pass(nn.Sequential(self.encoder, self.expander), 0), Pass(self._jigsaw(), 1)]


def build(config: PretrainConfig, data: TrainingData) -> Pirl:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Pirl(config, config.method, data)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return f"{config.model.encoder}, heads {config.model.expander} for the image and for its patches, a memory bank"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    total, dims = config.train.global_batch, int(config.model.expander.split("-")[-1])
    return bank_cost(total, dims, config.method.num_negatives, NUM_VIEWS, ranks, size)
