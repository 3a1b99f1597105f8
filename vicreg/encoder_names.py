"""Names of encoders, read from the files of torchvision and timm: importing them to refuse a name takes seconds."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from border.text import did_you_mean
from vicreg.branch_kinds import kind_of
from vicreg.config import ModelConfig
from vicreg.presets import NARROW
from vicreg.sound_config import WAVE_ENCODERS

_MADE = re.compile(r"^@register_model\b.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
_RENAMED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_OLD_NAME = re.compile(r"^\s*['\"](\w+)['\"]\s*:", re.MULTILINE)


@functools.cache
def encoder_names() -> frozenset[str]:
    """What `build_encoder` takes: our narrow ResNet, torchvision's for classification, timm's with their old names."""
    return frozenset([NARROW, *_names("torchvision"), *_names("timm")])


def require_known(model: ModelConfig) -> None:
    """ValueError where an encoder of a configuration has a name that nobody knows."""
    for option, name in (("model.encoder", model.encoder), ("model.encoder-b", model.encoder_b)):
        if name and kind_of(name) == "image" and name not in WAVE_ENCODERS:
            require_name(option, name)


def require_name(option: str, name: str) -> None:
    """ValueError where no network of images has that name; a tag of weights behind a dot is none of it."""
    if name.partition(".")[0] not in encoder_names():
        raise ValueError(unknown_encoder(option, name))


def unknown_encoder(option: str, name: str) -> str:
    """What to say of a name that nobody knows."""
    return (
        f"{option} is {name!r}, allowed: {NARROW}, a classification model of torchvision (such as resnet50), "
        f"or a model of timm (see timm.list_models()){did_you_mean(name, encoder_names())}"
    )


def _names(library: str) -> Iterator[str]:
    spec = find_spec(library)
    for folder in spec.submodule_search_locations or () if spec else ():
        for file in Path(folder, "models").glob("*.py"):
            text = file.read_text(encoding="utf-8")
            yield from _MADE.findall(text)
            for table in _RENAMED.findall(text):
                yield from _OLD_NAME.findall(table)
