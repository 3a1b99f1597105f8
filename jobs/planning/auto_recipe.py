"""`--recipe auto`: a configuration from what the images and the machine are, each choice with its reason.

The rules were found by trials (docs/own-images.md says which). What comes out is an ordinary configuration: once it
stands in a run's config.json nothing is chosen again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.planning.image_facts import NUM_IMAGES, ImageFacts
from vicreg.config import (
    DataConfig,
    ModelConfig,
    OnlineConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
    official_views,
    without_colours,
)
from vicreg.methods import vicreg
from vicreg.presets import NARROW

SIZES_PX = (32, 64, 96, 128, 160, 224)
LARGEST_ON_CPU_PX = 64
MIRRORED_ABOVE, CHANCE = 0.02, 4.0
"""An asymmetry from which on images are not mirrored; of n images chance alone makes about 1 / n."""
MANY_IMAGES = 100_000
"""From here on the published settings for ImageNet hold: ResNet-50 and LARS."""
SMALL_DATA_LARS_RATE = 4.0
"""Of LARS on small data, for those who want it there: at the published rate it hardly moves."""
VIEWED_ON_CPU = 75_000
"""Images that a run takes in for each core of a machine without GPUs: three to five minutes of the small network."""
VIEWED_ON_GPU = 20_000_000
SMALL_BLUR_PX = 64
"""Up to this size views are not blurred, as in the published runs on CIFAR."""
EVAL_MARGIN = 256 / 224
"""Images above 64 px are measured as ImageNet's: resized to this much more, then the centre."""


@dataclass(frozen=True)
class Machine:
    """What a run has."""

    num_ranks: int
    has_gpus: bool
    num_cores: int


@dataclass
class _Choices:
    """The choices so far, and what the command line gives."""

    given: Mapping[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, chosen: Any, reason: str) -> Any:
        """The value for a field, by its full name: what is given, else what was chosen."""
        if name in self.given:
            self.reasons[name] = f"{self.given[name]}: given"
            return self.given[name]
        self.reasons[name] = f"{_said(chosen)}: {reason}"
        return chosen


def choose(
    facts: ImageFacts, machine: Machine, data: DataConfig, measures_online: bool, given: Mapping[str, Any] | None = None
) -> tuple[PretrainConfig, dict[str, str]]:
    """The configuration for a training set, and the reason for each choice by the field's name.

    data: with the betons' paths. measures_online: whether there are labels to measure with while the run goes on.
    given: fields that the command line sets, by their full names; what depends on them follows.
    """
    choices = _Choices(given or {})
    size = _image_size(choices, facts, machine)
    data = _data(choices, data, size, facts)
    batch, epochs = _length(choices, facts, machine)
    many = facts.num_images >= MANY_IMAGES and machine.has_gpus
    model = replace(_model(choices, size, many, machine), channels=facts.channels)
    optimizer = _optimizer(choices, epochs, many, model)
    online = 0
    if measures_online and facts.num_images < MANY_IMAGES:
        online = max(1, epochs // 5)
        online = choices.make("online.every_epochs", online, "five looks at the accuracy, as there are labels")
    config = PretrainConfig(
        vicreg.Config(),
        data=data,
        views=_views(choices, size, facts),
        model=model,
        optimizer=optimizer,
        train=TrainConfig(epochs=epochs, global_batch=batch),
        online=OnlineConfig(every_epochs=online),
    )
    return config, choices.reasons


def _image_size(choices: _Choices, facts: ImageFacts, machine: Machine) -> int:
    side = facts.shorter_side_px
    fits = max([size for size in SIZES_PX if size <= side] or [SIZES_PX[0]])
    why = f"the shorter side of the images is {side} px (median)"
    if not machine.has_gpus and fits > LARGEST_ON_CPU_PX:
        fits, why = LARGEST_ON_CPU_PX, f"{why}, and larger ones take too long without a GPU"
    size: int = choices.make("data.image_size", fits, why)
    return size


def _data(choices: _Choices, data: DataConfig, size: int, facts: ImageFacts) -> DataConfig:
    is_small = size <= SMALL_BLUR_PX
    resize = size if is_small else round(size * EVAL_MARGIN)
    why = "small images are measured whole" if is_small else "as on ImageNet, 256 for 224"
    resize = choices.make("data.eval_resize", resize, why)
    of_these = "of these images"
    mean = choices.make("data.mean", facts.mean, of_these)
    std = choices.make("data.std", facts.std, of_these)
    return replace(data, image_size=size, eval_resize=resize, mean=mean, std=std)


def _length(choices: _Choices, facts: ImageFacts, machine: Machine) -> tuple[int, int]:
    """Batch and epochs."""
    num = facts.num_images
    most = 128
    if machine.has_gpus:
        most = next(size for above, size in ((500_000, 2048), (50_000, 512), (0, 256)) if num >= above)
    fits = max(2, 1 << max(num // 8, 1).bit_length() - 1)
    batch = max(min(most, fits), 2 * machine.num_ranks)
    batch -= batch % machine.num_ranks
    why = f"{num:,} images, at least eight steps an epoch" if fits < most else f"usual for {num:,} images"
    batch = choices.make("train.global_batch", batch, why + ("" if machine.has_gpus else " without a GPU"))
    if machine.has_gpus:
        epochs = min(1000, max(100, round(VIEWED_ON_GPU / num)))
        why = f"{VIEWED_ON_GPU:,} images in all, 100 to 1,000 epochs"
    else:
        viewed = VIEWED_ON_CPU * min(8, max(2, machine.num_cores))
        epochs = min(400, max(10, round(viewed / num)))
        why = f"{viewed:,} images in all, as {machine.num_cores} cores can take in some minutes, 10 to 400 epochs"
    return batch, choices.make("train.epochs", epochs, why)


def _model(choices: _Choices, size: int, many: bool, machine: Machine) -> ModelConfig:
    if not machine.has_gpus:
        encoder, why = NARROW, "0.3 M parameters, which CPUs can train"
    elif many and size >= 128:
        encoder, why = "resnet50", f"{MANY_IMAGES:,} images and more"
    else:
        encoder, why = "resnet18", "few or small images"
    encoder = choices.make("model.encoder", encoder, why)
    is_resnet = encoder.startswith("resnet")
    largest = 64 if machine.has_gpus else 32
    small = choices.make(
        "model.small_images",
        is_resnet and size <= largest,
        f"a stem for small images up to {largest} px, of a ResNet",
    )
    widths = {NARROW: "512-512-512", "resnet18": "2048-2048-2048"}.get(encoder, "8192-8192-8192")
    expander = choices.make("model.expander", widths, f"usual behind {encoder}")
    return ModelConfig(encoder=encoder, small_images=small, expander=expander)


def _optimizer(choices: _Choices, epochs: int, many: bool, model: ModelConfig) -> OptimizerConfig:
    why = f"fewer than {MANY_IMAGES:,} images: LARS takes longer to get going than such a run lasts"
    why = "as published for ImageNet and 100 epochs" if many else why
    name = choices.make("optimizer.name", "lars" if many else "adamw", why)
    rates = {"adamw": 2e-3 if model.encoder == NARROW else 1e-3, "lars": 0.3 if many else SMALL_DATA_LARS_RATE}
    warmup = min(10.0, epochs / 10)
    return OptimizerConfig(
        name=name,
        base_lr=choices.make("optimizer.base_lr", rates.get(name, 0.05), f"for {name} and {model.encoder}"),
        weight_decay=choices.make("optimizer.weight_decay", 1e-6 if name == "lars" else 1e-4, f"usual with {name}"),
        warmup_epochs=choices.make("optimizer.warmup_epochs", warmup, "a tenth of the run, at most 10"),
    )


def _views(choices: _Choices, size: int, facts: ImageFacts) -> tuple[ViewConfig, ViewConfig]:
    num_seen = min(NUM_IMAGES, facts.num_images)
    mirrors = facts.mirror_asymmetry < max(MIRRORED_ABOVE, CHANCE / num_seen)
    asymmetry = f"the mean of {num_seen} images differs from its mirror image by {facts.mirror_asymmetry:.1%} of what"
    sides = f"{asymmetry} single ones do: left and right {'mean nothing' if mirrors else 'are not alike'}"
    changes: dict[str, Any] = {"hflip_p": choices.make("views.hflip_p", 0.5 if mirrors else 0.0, sides)}
    if not mirrors:
        why = "left and right are not alike, so places matter: large crops, as in recipe digits"
        changes["crop_scale"] = choices.make("views.crop_scale", (0.5, 1.0), why)
    elif size <= SMALL_BLUR_PX:
        changes["crop_scale"] = choices.make("views.crop_scale", (0.2, 1.0), "small images, as on CIFAR")
    if size <= SMALL_BLUR_PX:
        changes["blur_p"] = choices.make("views.blur_p", 0.0, f"up to {SMALL_BLUR_PX} px detail is scarce")
    if facts.is_grey:
        grey = {"saturation": 0.0, "hue": 0.0, "grayscale_p": 0.0, "solarize_p": 0.0}
        choices.make("views.colours", "brightness and contrast alone", "the images are grey")
        changes |= grey
    first, second = (replace(view, **changes) for view in official_views())
    if facts.channels:
        choices.make("views.colours", "brightness and contrast of each channel", "the channels are no colours")
        return without_colours(first), without_colours(second)
    return first, second


def _said(value: Any) -> str:
    return ", ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else f"{value}"
