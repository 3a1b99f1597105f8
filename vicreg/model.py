"""The encoder, by its name in torchvision or timm, and the expander behind it.

Both are imported where a network is built: with torch._dynamo, which torchvision's operations bring along, they take
longer to import than all else that a command needs to say what it would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vicreg.branch_kinds import kind_of
from vicreg.config import DataConfig, ModelConfig
from vicreg.encoder_names import unknown_encoder
from vicreg.expander import UnitLength, build_expander
from vicreg.lab_colours import LabEncoder
from vicreg.presets import NARROW as NARROW
from vicreg.stem import exchange_channels
from vicreg.text_encoder import build_text_encoder
from vicreg.wave_resnet import WAVE_ENCODERS, OnSpectrogram, WaveResNet

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet

IMAGENET_MEAN, IMAGENET_STD = DataConfig.mean, DataConfig.std
INCEPTIONS = ("googlenet", "inception_v3")  # of torchvision: with auxiliary classifiers, and other normalisation


def build_encoder(name: str, small_images: bool = False, stem_padding: int = 1, channels: int = 0) -> nn.Module:
    """An encoder with random weights: images (B, C, S, S) in, features (B, encoder.num_features) out.

    The features are what the classifier of the network of that name would see; its other names and shapes stay.
    Residual branches of torchvision's ResNets begin at zero (zero-initialised last batch-norm weights), as in the
    official code; timm does the same by itself.
    `small_images` exchanges a ResNet's stem for a 3x3 convolution of stride 1 with `stem_padding`, without pooling.
    `channels` exchanges the first layer for one that takes so many; 0: RGB.
    Raises ValueError for an unknown name, or where the stem cannot be exchanged.
    """
    if name == NARROW:
        encoder: nn.Module = narrow_resnet()
    elif is_of_torchvision(name):
        import torchvision.models

        encoder = torchvision.models.get_model(name, weights=None, **_torchvision_options(name))
    else:
        encoder = _from_timm(name, channels)
    if channels and (name == NARROW or is_of_torchvision(name)):
        exchange_channels(encoder, channels, f"the images have {channels} channels")
    if small_images:
        _exchange_stem(encoder, name, stem_padding)
    if not hasattr(encoder, "num_features"):  # timm takes its classifiers off by itself
        _remove_classifier(encoder)
    return encoder


def is_of_torchvision(name: str) -> bool:
    """Whether torchvision has a classification model of that name, which then comes from there and not from timm."""
    import torchvision.models

    return name in torchvision.models.list_models(module=torchvision.models)


def usual_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel (values from 0 to 1) that published weights of that encoder expect.

    None where there are no published weights.
    """
    if is_of_torchvision(name):  # whose two Inceptions come from TensorFlow
        return ((0.5,) * 3, (0.5,) * 3) if name in INCEPTIONS else (IMAGENET_MEAN, IMAGENET_STD)
    if name == NARROW:
        return None
    import timm

    published = timm.get_pretrained_cfg(name)
    return (published.mean, published.std) if published else None


def num_features(encoder: nn.Module) -> int:
    """The width of its features."""
    width = encoder.num_features
    assert isinstance(width, int)  # to the type checker an attribute of a module may be a tensor or a module
    return width


def num_parameters(network: nn.Module) -> int:
    """How many weights and biases it has."""
    return sum(parameter.numel() for parameter in network.parameters())


def _torchvision_options(name: str) -> dict[str, bool]:
    if "resnet" in name or "resnext" in name:
        return {"zero_init_residual": True}
    if name in INCEPTIONS:
        return {"aux_logits": False, "init_weights": True}  # no second output when training, no warning
    return {}


def _from_timm(name: str, channels: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ValueError(unknown_encoder("encoder", name))
    options: dict[str, Any] = {"in_chans": channels} if channels else {}
    try:  # a ViT's positions are then resampled for images of another size than it was made for
        encoder: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True, **options)
    except TypeError:  # another network, which has no such option
        encoder = timm.create_model(name, pretrained=False, num_classes=0, **options)
    # For timm, num_features is the width before pooling; some heads (VGG, MobileNetV3) widen it.
    encoder.num_features = encoder.head_hidden_size
    return encoder


def _remove_classifier(encoder: nn.Module) -> None:
    """Let a network of torchvision end in its features, and say how many there are.

    All of them end in one linear layer or 1x1 convolution, registered last, and some drop out the features before it.
    """
    layers = [(place, module) for place, module in encoder.named_modules() if not list(module.children())]
    while not isinstance(layers[-1][1], nn.Linear | nn.Conv2d):
        layers.pop()  # squeezenet pools behind its classifier
    place, classifier = layers.pop()
    is_convolution = isinstance(classifier, nn.Conv2d)
    encoder.num_features = classifier.in_channels if is_convolution else classifier.in_features
    encoder.set_submodule(place, nn.Identity())
    if isinstance(layers[-1][1], nn.Dropout):
        encoder.set_submodule(layers[-1][0], nn.Identity())


def _exchange_stem(encoder: nn.Module, name: str, padding: int) -> None:
    stem = getattr(encoder, "conv1", None)
    if not isinstance(stem, nn.Conv2d) or not hasattr(encoder, "maxpool"):
        raise ValueError(f"small_images is set, but encoder {name!r} has no ResNet stem; allowed: a plain ResNet")
    encoder.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, stride=1, padding=padding, bias=False)
    nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    encoder.maxpool = nn.Identity()


def layer_norms(network: nn.Module) -> None:
    """Exchange every batch norm of a convolutional network for a layer norm over channels and places."""
    for place, layer in list(network.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            norm = nn.GroupNorm(1, layer.num_features)
            if layer.affine:
                norm.load_state_dict({"weight": layer.weight, "bias": layer.bias})  # residual branches may begin at 0
            network.set_submodule(place, norm)


def narrow_resnet(width: int = 16) -> ResNet:
    """A ResNet of four basic blocks with `width` to 8 x `width` channels (0.3 M parameters), for trying things out.

    Its residual branches do not begin at zero: in a run of a few hundred steps they would hardly open.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    network = ResNet(BasicBlock, [1, 1, 1, 1])
    network.inplanes = width
    network.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    network.layer1 = network._make_layer(BasicBlock, width, 1)
    network.layer2 = network._make_layer(BasicBlock, width * 2, 1, stride=2)
    network.layer3 = network._make_layer(BasicBlock, width * 4, 1, stride=2)
    network.layer4 = network._make_layer(BasicBlock, width * 8, 1, stride=2)
    network.fc = nn.Linear(width * 8, 1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


@dataclass(frozen=True)
class Beginning:
    """Weights that networks begin with instead of random ones."""

    encoder: Mapping[str, Tensor]
    expander: Mapping[str, Tensor]
    """Empty where it begins with random ones."""


_beginning: ContextVar[Beginning | None] = ContextVar("beginning", default=None)


@contextmanager
def begins_with(beginning: Beginning | None) -> Iterator[None]:
    """Networks that are built in this block have these weights, so that copies of them, such as teachers, do too.

    Random numbers are drawn as without, and what has no such weights has the same random ones.
    """
    token = _beginning.set(beginning)
    try:
        yield
    finally:
        _beginning.reset(token)


def encoder_by_config(config: ModelConfig) -> nn.Module:
    """The encoder of a configuration, with random weights from torch's generator, or with those it `begins_with`."""
    encoder = _random_encoder(config)
    if (beginning := _beginning.get()) and kind_of(config.encoder) == "image":
        _copy(beginning.encoder, encoder)
    return encoder


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """(`load_state_dict` changes some networks to fit older files, such as torchvision's MNASNet.)"""
    for name, tensor in network.state_dict().items():
        tensor.copy_(weights[name])


def _random_encoder(config: ModelConfig) -> nn.Module:
    encoder: nn.Module
    if kind_of(config.encoder) == "text":
        return build_text_encoder(config.encoder, config.num_words)
    if config.colours == "lab":
        encoder = LabEncoder(*(_random_encoder(replace(config, colours="rgb")) for _ in range(2)))
    elif config.sound.is_on and config.encoder in WAVE_ENCODERS:
        encoder = WaveResNet(WAVE_ENCODERS[config.encoder])
    else:
        encoder = build_encoder(config.encoder, config.small_images, config.stem_padding, config.channels)
        if config.sound.is_on:
            encoder = OnSpectrogram(encoder, config.sound, num_features(encoder))
    if config.encoder_norm == "layer":
        layer_norms(encoder)
    return encoder


def build_model(config: ModelConfig) -> tuple[nn.Module, nn.Sequential]:
    """Encoder and expander of a configuration, with random weights from torch's generator."""
    encoder = encoder_by_config(config)
    if config.expander == "none":
        return encoder, nn.Sequential(*([UnitLength()] if config.unit_length else []))
    expander = build_expander(num_features(encoder), config.expander, config.expander_bias, config.expander_norm)
    if (beginning := _beginning.get()) and beginning.expander and kind_of(config.encoder) == "image":
        _copy(beginning.expander, expander)
    return encoder, expander.append(UnitLength()) if config.unit_length else expander
