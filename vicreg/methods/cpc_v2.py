"""CPC v2 (Henaff et al., ICML 2020): patches of an image are predicted from those on one side of them.

There is no official code. From the paper: overlapping patches, each through the encoder, layer norm, a masked
convolutional context, prediction in four directions, patches that lose colour and are mirrored; from Lightning Bolts'
port: 64-dimensional targets, the scale of 0.1 of inner products. The rest is ours, and said where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vicreg.config import MethodConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, ViewConfig, require
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """CPC v2: the grid of patches and what is predicted (paper, section 3)."""

    name: str = "cpc_v2"
    grid: int = 7
    """Patches along each side, each of which overlaps half of the next (256 px: 7 of 64 px)."""
    first_ahead: int = 2
    """The nearest row that is predicted; 2 is the first that shares no pixel with the context."""
    last_ahead: int = 6
    """The farthest."""
    target_dims: int = 64
    """Width of predictions and of what is predicted (Bolts' port)."""
    context_dims: int = 256
    """Width of the context network (ours)."""
    context_layers: int = 3
    """Masked convolutions of the context network; each sees one row more (ours)."""
    scale: float = 0.1
    """What inner products are multiplied by (Bolts' port)."""
    colour_drop_p: float = 0.25
    """Probability that a patch keeps one channel alone (the paper does not say; ours)."""
    flip_p: float = 0.5
    """Probability that a patch is mirrored."""

    def __post_init__(self) -> None:
        ahead = (self.first_ahead, self.last_ahead)
        require(1 <= ahead[0] <= ahead[1] < self.grid, "first_ahead, last_ahead", ahead, f"1 to {self.grid - 1}")
        for name in ("target_dims", "context_dims", "context_layers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.scale > 0, "scale", self.scale, "above 0")
        for name in ("colour_drop_p", "flip_p"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")

    @property
    def ahead(self) -> range:
        """Rows that are predicted, counted from the last row of the context."""
        return range(self.first_ahead, self.last_ahead + 1)


TERMS = {
    "loss": Term("Loss", "Cross-entropy of telling a predicted patch from all of the batch.", "loss", 3),
    "right": Term("Right predictions", "Share of predictions that come closest to their own patch.", "right", 3),
    **SPREAD,
}


def _imagenet() -> PretrainConfig:
    view = ViewConfig(image_size=256, crop_scale=(0.2, 1.0), jitter_p=0.8, saturation=0.4, grayscale_p=0.2, blur_p=0.0)
    return PretrainConfig(
        Config(),
        views=(view,),
        model=ModelConfig(encoder_norm="layer"),
        optimizer=OptimizerConfig(name="adamw", base_lr=4e-4, weight_decay=0.0, warmup_epochs=1.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=200, global_batch=512),
    )


def _cifar10() -> PretrainConfig:
    config = _imagenet()
    return replace(
        config,
        method=Config(first_ahead=2, last_ahead=5),
        data=CIFAR10,
        views=(replace(config.views[0], image_size=32),),
        model=replace(config.model, encoder="resnet18", small_images=True),
        train=TrainConfig(epochs=200, global_batch=256),
    )


RECIPES = {
    "cpc-v2": Published(
        source="paper (patches, layer norm, four directions) and Lightning Bolts' port (Adam 4e-4, targets of 64); "
        "batch, epochs and what else is not published are ours",
        expected="linear top-1 63.8 %, top-5 85.3 % (paper; VICReg paper, Table 1), of a setting that is not published",
        pretrain=_imagenet(),
    ),
    "cifar10-cpc-v2": Published(
        source="ours: the ImageNet recipe with patches of 8 px and a ResNet-18 for small images",
        expected="none is published",
        pretrain=_cifar10(),
    ),
}
