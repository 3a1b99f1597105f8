"""Options of jobs/export_encoder.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from disk.whole_files import require_new
from jobs.planning.command_line import read_command
from jobs.planning.run_folder import read_finished
from vicreg.one_branch import branch
from vicreg.sound_config import require_images


@dataclass(frozen=True)
class Command:
    """Write the encoder of a finished run in another format; it is read back and compared before it has its name."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of jobs/pretrain.py or jobs/import_encoder.py."""
    format: Literal["torchvision", "timm", "safetensors", "onnx", "detectron2"]
    """torchvision: state dict with torchvision's names. timm: folder for timm's local-dir. safetensors: tensors and
    what is known of them. onnx: a graph for any number of images at once. detectron2: a ResNet's state dict with its
    names."""
    out: Path
    """File to write; for timm a folder."""
    encoder: str = ""
    """Which of the run's encoders, where it has several (b: the second branch's); empty: the first."""


def parse(arguments: list[str]) -> Command:
    """The command line; ValueError for what can be known to be impossible before anything is read."""
    command = read_command(Command, arguments)
    config, _ = read_finished(command.run)
    require_images(config.model.sound, "jobs/export_encoder.py")
    branch(config.model, command.encoder)  # raises what it objects to
    require_new(command.out)
    return command
