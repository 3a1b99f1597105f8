"""PIRL (Misra and van der Maaten, CVPR 2020): an image and its shuffled patches find their entry of a memory bank."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from vicreg.config import MethodConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, ViewConfig, require
from vicreg.losses.contrastive import at_least_float32, queue_loss, require_temperature
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.memory_bank import MemoryBank, bank_cost
from vicreg.method import Inputs, LossCost, Method, Pass, Progress, Published, Term, TrainingData
from vicreg.model import build_expander, build_model, num_features
from vicreg.patches import PATCH_SHARE, Jigsaw, global_draws
from vicreg.presets import CIFAR10, PLAIN_CROP
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """PIRL: memory bank, its temperature, and the jigsaw (paper, section 3; PyContrast's PIRL for the patches)."""

    name: str = "pirl"
    temperature: float = 0.07
    """What similarities are divided by."""
    num_negatives: int = 32_000
    """Entries of other images that an image is told from, drawn anew in each step."""
    bank_momentum: float = 0.5
    """Share of itself that an entry keeps when its image was seen."""
    jigsaw_weight: float = 0.5
    """Weight of the patches' part of the loss; the image's has the rest of 1."""
    cells: int = 3
    """Parts of each side that patches are cut from."""
    patch_share: float = PATCH_SHARE
    """Side of a patch over that of its cell."""

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require(self.num_negatives >= 1, "num_negatives", self.num_negatives, "1 or more")
        require(0 <= self.bank_momentum < 1, "bank_momentum", self.bank_momentum, "from 0 to below 1")
        require(0 <= self.jigsaw_weight <= 1, "jigsaw_weight", self.jigsaw_weight, "from 0 to 1")
        require(self.cells >= 1, "cells", self.cells, "1 or more")
        require(0 < self.patch_share <= 1, "patch_share", self.patch_share, "above 0, to 1")


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


TERMS = {
    "loss": Term("Loss", "Weighted mean of the image's and the patches' part.", "loss", 3),
    "image_loss": Term("Image", "Of telling the image's entry of the bank from others.", "image", 3),
    "jigsaw_loss": Term("Patches", "Of telling it by the shuffled patches.", "jigsaw", 3),
    **SPREAD,
}


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


_PATCHES = ViewConfig(
    image_size=255, crop_scale=(0.6, 1.0), jitter_p=1.0, saturation=0.4, hue=0.2, blur_p=0.0, hflip_p=0.5
)


def _imagenet() -> PretrainConfig:
    return PretrainConfig(
        Config(),
        views=(PLAIN_CROP, _PATCHES),
        model=ModelConfig(expander="128", expander_bias="all"),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, weight_decay=1e-4, warmup_epochs=0.0),
        train=TrainConfig(epochs=800, global_batch=1024),
    )


def _cifar10() -> PretrainConfig:
    return replace(
        _imagenet(),
        method=Config(num_negatives=4096),
        data=CIFAR10,
        views=(replace(PLAIN_CROP, crop_scale=(0.2, 1.0)), replace(_PATCHES, image_size=48)),
        model=ModelConfig(encoder="resnet18", small_images=True, expander="128", expander_bias="all"),
        train=TrainConfig(epochs=200, global_batch=256),
    )


RECIPES = {
    "pirl": Published(
        source="paper, section 4, and VISSL: ResNet-50, batch 1,024, SGD, 0.12 to 0.00012, decay 1e-4, 800 epochs, "
        "32,000 negatives; patches as PyContrast cuts them (64 px in 3 x 3 cells of 85 px)",
        expected="linear top-1 63.6 % (paper; VICReg paper, Table 1); VISSL 64.29 %",
        pretrain=_imagenet(),
    ),
    "cifar10-pirl": Published(
        source="ours: the ImageNet recipe with ResNet-18 for small images, patches of 12 px, 4,096 negatives",
        expected="none is published",
        pretrain=_cifar10(),
    ),
}
