"""Options of jobs/import_encoder.py."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from jobs.planning import recipes
from jobs.planning.command_line import or_none, read_command
from slurm.cluster import load as load_profile
from vicreg.config import DataConfig, ModelConfig
from vicreg.data.channels import normalised_for_channels
from vicreg.encoder_names import require_name


@dataclass(frozen=True)
class Command:
    """Make a run folder from an encoder that was trained elsewhere, to be measured with jobs/eval_all.py."""

    source: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = None
    """A released VICReg checkpoint (whole or backbone only), weights of torchvision or timm (.pth, .safetensors), or
    encoder.pt or a checkpoint folder of another run."""
    run: Path = Path()
    """Run folder to make."""
    recipe: str = "imagenet-1000ep"
    """Named run whose data, sizes and evaluations are taken."""
    encoder: str = ""
    """Name of the network in torchvision, else in timm; if empty the one that the file names, else the recipe's."""
    small_images: bool | None = None
    """Stem for images of about 32 px; if None as the file says or its shapes tell, else as the recipe's encoder."""
    stem_padding: int | None = None
    """Padding of that stem: 1, or 2 as solo-learn has it, which no shape tells; if None as the file says or looks."""
    part: str = ""
    """Which network, where the file holds several: a word of its name (student, teacher, ema) or the whole of it."""
    channels: int | None = None
    """Channels of the images, where these are no colours; weights for another number become their mean for each, times
    their number over the images', which keeps the sum. If None as the file says, else RGB."""
    random: bool = False
    """Without SOURCE: the encoder with random weights, as a baseline."""
    cluster: str = ""
    """Profile in clusters.toml whose data folders are taken; as in jobs/pretrain.py."""
    data: DataConfig = field(default_factory=DataConfig)


def parse(arguments: list[str]) -> Command:
    """The command line, whose defaults are those of the recipe that it names."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", nargs="?", default="")
    early.add_argument("--cluster", nargs="?", default="")
    early.add_argument("--channels", type=or_none(int), nargs="?", default=0)
    early.add_argument("--data.train", dest="train", nargs="?", default="")
    chosen, _ = early.parse_known_args(arguments)
    recipe = recipes.recipe(chosen.recipe or Command.recipe)
    data = recipes.at_home(recipe.pretrain, load_profile(chosen.cluster)).data
    if chosen.channels:
        data = normalised_for_channels(replace(data, train=chosen.train or data.train), chosen.channels)
    default = Command(run=tyro.MISSING, recipe=recipe.name, data=data)
    command = read_command(Command, arguments, default=default)
    if command.random == (command.source is not None):
        raise ValueError("say either SOURCE, the file of a trained encoder, or --random, and not both")
    if command.source and not command.source.exists():
        raise ValueError(f"{command.source}: no such file")
    if command.encoder:
        require_name("encoder", command.encoder)
    ModelConfig(channels=command.channels or 0)  # raises what it objects to
    return command
