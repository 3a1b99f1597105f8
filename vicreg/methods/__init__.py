"""One file per method, found by its name, with what it is told: no list of methods is kept anywhere.

Begin with `vicreg.py`, the example. What a file must have is `MethodFile`, some floors down; what computes is in the
file of the same name in `networks/`, so that options are read, and errors in them said, without torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, cast

from border.text import did_you_mean
from vicreg.config import PretrainConfig
from vicreg.config_json import from_json
from vicreg.method_file import MethodFile
from vicreg.schema import upgraded

_PARTS = ("Config", "RECIPES", "TERMS")


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


def read_config(values: dict[str, Any], schema: int) -> PretrainConfig:
    """A run's configuration from the JSON form that `schema` numbers; ValueError if it is none."""
    try:
        values = upgraded(values, schema)
        name = values["method"]["name"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"there is no configuration of form {schema!r} in it ({error!r})") from error
    return from_json(PretrainConfig, values, method=load(name).Config)
