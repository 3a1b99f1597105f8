"""A configuration that fits the images of its training data: how many channels, and what they are normalised by.

Stands apart because it is asked before a run, where there is only a configuration and a path; what the images are, the
beton and its manifest say.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from dataprep.beton.contract import Beton, BetonError, read_beton
from dataprep.beton.manifest import channel_statistics
from vicreg.config import DataConfig, PretrainConfig, require, without_colours


def normalised_for_channels(data: DataConfig, channels: int) -> DataConfig:
    """The same for so many channels, by the manifest; else the mean is 0.5 and the deviation 0.25 of the range."""
    stated = channel_statistics(Path(data.train))
    mean, std = stated if stated and len(stated[0]) == channels else ((0.5,) * channels, (0.25,) * channels)
    return replace(data, mean=mean, std=std)


def fitted_to_channels(config: PretrainConfig) -> PretrainConfig:
    """The configuration for channels that are no colours, where the training data have such; else as it is.

    The first layer takes so many, the data are normalised by their manifest, and the views change no colours. Sound has
    one channel, a rate and a length.
    """
    try:
        beton = read_beton(Path(config.data.train))
    except BetonError:  # said when the data are asked for
        return config
    pixels = beton.pixels
    if pixels.is_rgb:
        return config
    model = replace(config.model, channels=pixels.channels)
    if pixels.is_sound:
        length = clip_samples(beton)
        model = replace(model, sound=replace(model.sound, rate_hz=pixels.rate_hz, clip_samples=length))
    return replace(
        config,
        data=normalised_for_channels(config.data, pixels.channels),
        views=config.views if pixels.is_sound else tuple(without_colours(view) for view in config.views),
        model=model,
    )


def require_channels(data: DataConfig, beton: Beton) -> None:
    """ValueError unless the images of a beton have the channels that they are to be normalised by."""
    if len(data.mean) != beton.pixels.channels:
        raise ValueError(
            f"{beton.path} has images of {beton.pixels}, but data.mean has {len(data.mean)} numbers: an encoder takes "
            "images of as many channels as it was trained on"
        )


def clip_samples(beton: Beton) -> int:
    """The length that all clips of a beton have; ValueError where they have several."""
    lengths = np.unique(beton.widths)
    allowed = "clips of one length (dataprep/write_ffcv.py audio gives them one)"
    require(len(lengths) == 1, str(beton.path), f"clips of {len(lengths)} lengths", allowed)
    return int(lengths[0])
