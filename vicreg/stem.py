"""The first layer of an encoder, exchanged for one that takes another number of channels."""

from __future__ import annotations

from torch import nn


def exchange_channels(network: nn.Module, channels: int, why: str) -> None:
    """A first convolution for so many channels, with random weights; ValueError where a network has none.

    why: what asks for it, for the error.
    """
    place, stem = next((place, module) for place, module in network.named_modules() if not list(module.children()))
    if not isinstance(stem, nn.Conv2d):
        raise ValueError(f"{why}, but the encoder begins with {stem}; allowed: one that begins with Conv2d")
    kind = (stem.kernel_size, stem.stride, stem.padding)
    exchanged = nn.Conv2d(channels, stem.out_channels, *kind, bias=stem.bias is not None)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(exchanged.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(place, exchanged)
