"""The first layer of an encoder, exchanged for one that takes another number of channels; and its weights for them."""

from __future__ import annotations

from torch import Tensor, nn


def first_layer(network: nn.Module) -> tuple[str, nn.Module]:
    """The layer that sees the image, and its name."""
    return next((place, module) for place, module in network.named_modules() if not list(module.children()))


def mean_for_channels(weight: Tensor, channels: int) -> Tensor:
    """Weights (O, S, H, W) of a convolution for S channels as such for others, (O, `channels`, H, W).

    Each has the mean over the S, times S / `channels`, so the sum over the channels is what it was: an image whose
    channels are all alike gives what it gave.
    """
    mean = weight.mean(dim=1, keepdim=True) * (weight.shape[1] / channels)
    return mean.expand(-1, channels, -1, -1).contiguous()


def exchange_channels(network: nn.Module, channels: int, why: str) -> None:
    """A first convolution for so many channels, with random weights; ValueError where a network has none.

    why: what asks for it, for the error.
    """
    place, stem = first_layer(network)
    if not isinstance(stem, nn.Conv2d):
        raise ValueError(f"{why}, but the encoder begins with {stem}; allowed: one that begins with Conv2d")
    kind = (stem.kernel_size, stem.stride, stem.padding)
    exchanged = nn.Conv2d(channels, stem.out_channels, *kind, bias=stem.bias is not None)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(exchanged.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(place, exchanged)
