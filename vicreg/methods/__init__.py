"""One file per method, found by its name: no list of methods is kept anywhere.

Begin with `vicreg.py`, the example. What a file must have is `MethodFile` of the seam, one floor down.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, cast

from border.text import did_you_mean
from vicreg.config import PretrainConfig
from vicreg.config_json import from_json
from vicreg.method import Method, MethodFile, TrainingData
from vicreg.schema import upgraded
from vicreg.text_encoder import TextEncoder

_PARTS = ("Config", "RECIPES", "TERMS", "build", "networks", "loss_cost")


def names() -> list[str]:
    """Every method."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> MethodFile:
    """The file of a method; ValueError with the valid names otherwise, or with what the file lacks."""
    if name not in names():
        raise ValueError(f"method.name is {name!r}, allowed: {', '.join(names())}{did_you_mean(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    lacking = [part for part in _PARTS if not hasattr(module, part)]
    if lacking:
        raise ValueError(f"vicreg/methods/{name}.py lacks {', '.join(lacking)}; a method has {', '.join(_PARTS)}")
    return cast(MethodFile, module)


def build(config: PretrainConfig, data: TrainingData) -> Method:
    """The method that a configuration names, with random weights from torch's generator."""
    method = load(config.method.name).build(config, data)
    for encoder in method.encoders.values():
        if isinstance(encoder, TextEncoder) and data.words:
            encoder.know(data.words)
    return method


def read_config(values: dict[str, Any], schema: int) -> PretrainConfig:
    """A run's configuration from the JSON form that `schema` numbers; ValueError if it is none."""
    try:
        values = upgraded(values, schema)
        name = values["method"]["name"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"there is no configuration of form {schema!r} in it ({error!r})") from error
    return from_json(PretrainConfig, values, method=load(name).Config)
