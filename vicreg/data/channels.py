"""A configuration that fits the images of its training data: how many channels, and what they are normalised by.

Stands apart because it is asked before a run, where there is only a configuration and a path; what the images are, the
beton and its manifest say.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dataprep.beton.contract import Beton, BetonError, read_beton
from dataprep.beton.manifest import channel_statistics
from vicreg.config import DataConfig, PretrainConfig, without_colours


def normalised_by_data(data: DataConfig) -> DataConfig:
    """The same, normalised by what the manifest of the training data states; as it is where none states it."""
    stated = channel_statistics(Path(data.train))
    return replace(data, mean=stated[0], std=stated[1]) if stated else data


def fitted_to_channels(config: PretrainConfig) -> PretrainConfig:
    """The configuration for channels that are no colours, where the training data have such; else as it is.

    The first layer takes so many, the data are normalised by their manifest, and the views change no colours. Without
    a manifest the mean is 0.5 and the deviation 0.25 of the range.
    """
    try:
        pixels = read_beton(Path(config.data.train)).pixels
    except BetonError:  # said when the data are asked for
        return config
    if pixels.is_rgb:
        return config
    unknown = replace(config.data, mean=(0.5,) * pixels.channels, std=(0.25,) * pixels.channels)
    return replace(
        config,
        data=normalised_by_data(unknown),
        views=tuple(without_colours(view) for view in config.views),
        model=replace(config.model, channels=pixels.channels),
    )


def require_channels(data: DataConfig, beton: Beton) -> None:
    """ValueError unless the images of a beton have the channels that they are to be normalised by."""
    if len(data.mean) != beton.pixels.channels:
        raise ValueError(
            f"{beton.path} has images of {beton.pixels}, but data.mean has {len(data.mean)} numbers: an encoder takes "
            "images of as many channels as it was trained on"
        )
