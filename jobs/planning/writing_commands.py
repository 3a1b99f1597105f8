"""The whole command that writes a beton that is missing, as far as the one beside it, or its folder's name, tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from border.text import suite_command
from dataprep.beton.contract import BetonError, open_beton, read_manifest
from dataprep.sources.captions import SPLIT_FILE
from slurm.preflight import Check

TRAIN = "train.beton"
WITH_FOLDERS = (
    *("imagenet", "cifar10", "places205", "voc07", "inat18"),
    *("voc-detection", "coco-detection", "voc-segmentation", "ade20k", "captions"),
)
"""Data sets that write_ffcv.py reads from a folder of raw data."""
MADE_HERE = {
    "digits": ("digits",),
    "digits, multi-label": ("digits", "--multi-label"),
    "digits-multi-label": ("digits", "--multi-label"),
    "digits, captions": ("digits", "--captions"),
    "digit-captions": ("digits", "--captions"),
    "tones": ("tones",),
}
"""What takes no raw data, by the source in the manifest or the folder of the recipes."""
SPOKEN_DIGITS = ("--pattern", r"(?P<label>\d)_\w+_\d+\.wav$", "--hold-out", r"_[0-4]\.wav$")
SOUND = {
    "esc50": ("--fold", 5),
    "spoken-digits": ("--rate-hz", 8000, "--clip-seconds", 1, *SPOKEN_DIGITS),
}
"""How the recipes' sound is written: both splits by one command."""
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
    if name in MADE_HERE:
        return _command(*MADE_HERE[name], "--out", folder, "--split", split)
    if folder.name in SOUND and name in ("audio", folder.name):
        return _command("audio", "--root", root or "RAW", "--out", folder, *SOUND[folder.name])
    if name == "coco-captions":
        return _command("captions", "--root", "RAW", "--out", folder, "--split", split, *options)
    if name == "captions" and root and not (Path(root) / SPLIT_FILE).is_file():  # a table has no splits of its own
        num_val = max(1, round(HELD_OUT * int(source.get("num_listed", 0))))
        return _command("captions", "--root", root, "--out", folder, "--num-val", num_val, "--overwrite", *options)
    if name in WITH_FOLDERS:
        return _command(name, "--root", root or "RAW", "--out", folder, "--split", split, *options)
    if not root or (Path(root) / split).is_dir():
        return _command("folder", "--root", root or "IMAGES", "--out", folder, "--split", split, *options)
    return _command("folder", "--root", root, "--out", folder, "--val-fraction", HELD_OUT, "--overwrite", *options)


def missing(beton: Path) -> Check:
    """That a beton is not there, with the command that writes it."""
    return Check("data", False, f"{beton}: no such file", writing_command(beton))


def require_beton(path: Path) -> None:
    """ValueError where there is none, with the command that writes it, or where what is there is damaged."""
    if not path.exists():
        raise ValueError(missing(path).whole)
    open_beton(path)


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
