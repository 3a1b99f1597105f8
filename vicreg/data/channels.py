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


def normalised_by_data(data: DataConfig) -> DataConfig:
    """The same, normalised by what the manifest of the training data states; as it is where none states it."""
    stated = channel_statistics(Path(data.train))
    return replace(data, mean=stated[0], std=stated[1]) if stated else data


def fitted_to_channels(config: PretrainConfig) -> PretrainConfig:
    """The configuration for channels that are no colours, where the training data have such; else as it is.

    The first layer takes so many, the data are normalised by their manifest, and the views change no colours. Without
    a manifest the mean is 0.5 and the deviation 0.25 of the range. Sound has one channel, a rate and a length.
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
    unknown = replace(config.data, mean=(0.5,) * pixels.channels, std=(0.25,) * pixels.channels)
    return replace(
        config,
        data=normalised_by_data(unknown),
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
