"""The whole command that writes a beton that is missing, as far as the one beside it, or its folder's name, tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from border.text import suite_command
from dataprep.beton.contract import BetonError, read_manifest
from slurm.preflight import Check

TRAIN = "train.beton"
WITH_FOLDERS = (
    *("imagenet", "cifar10", "places205", "voc07", "inat18"),
    *("voc-detection", "coco-detection", "voc-segmentation", "ade20k"),
)
"""Data sets that write_ffcv.py reads from a folder of raw data."""
ASKED = ("RAW", "IMAGES", "LISTS")
"""What nobody but the user knows: the folder of raw data, of own images, of SimCLR's imagenet_subsets/."""
HELD_OUT = 0.1


def writing_command(beton: Path) -> str:
    """The command; what nobody can know stands in it in capitals."""
    beside = beton.with_name(TRAIN)
    try:
        source = read_manifest(beside)["source"] if beside.is_file() and beside != beton else {}
        name, root = str(source.get("name", "")), str(source.get("root", ""))
        options = _options(read_manifest(beside)) if source else []
    except (BetonError, KeyError, AttributeError):
        name, root, options = "", "", []
    folder, split = beton.parent, beton.stem
    name = name or folder.name
    if name == "digits":
        return _command(name, "--out", folder, "--split", split)
    if name == "digits-multi-label":
        return _command("digits", "--multi-label", "--out", folder, "--split", split)
    if name in WITH_FOLDERS:
        return _command(name, "--root", root or "RAW", "--out", folder, "--split", split, *options)
    if not root or (Path(root) / split).is_dir():
        return _command("folder", "--root", root or "IMAGES", "--out", folder, "--split", split, *options)
    return _command("folder", "--root", root, "--out", folder, "--val-fraction", HELD_OUT, "--overwrite", *options)


def missing(beton: Path) -> Check:
    """That a beton is not there, with the command that writes it."""
    if beton.is_dir():
        return Check("data", False, f"{beton} is a folder, allowed: a beton, such as {beton / TRAIN}")
    return Check("data", False, f"{beton}: no such file", writing_command(beton))


def subset_command(beton: Path, name: str) -> str:
    """The command that chooses the published part of a beton that has this name."""
    percent = name.removeprefix("simclr-")  # simclr-1percent is 1percent.txt of SimCLR's imagenet_subsets/
    return _command("subset", beton, "--name", name, "--list", f"LISTS/{percent}.txt")


def asks(command: str) -> bool:
    """Whether something stands in the command, in capitals, that the user has to say."""
    return any(word in ASKED for word in command.replace("/", " ").split())


def _options(manifest: dict[str, Any]) -> list[object]:
    """How the beton beside it was made, where it was said."""
    longest = manifest.get("options", {}).get("max_resolution")
    return ["--max-resolution", longest] if isinstance(longest, int) else []


def _command(*parts: object) -> str:
    return suite_command("dataprep/write_ffcv.py", *parts)
