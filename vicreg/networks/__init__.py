"""One file per method with what it computes, of the same name as the file in `methods/` that says what it is told.

Begin with `vicreg.py`, the example. What a file must have is `NetworkFile` of the seam, some floors down.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import cast

from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.method import Method, NetworkFile, TrainingData
from vicreg.text_encoder import TextEncoder

_PARTS = ("build", "networks", "loss_cost")


def load(name: str) -> NetworkFile:
    """The networks of a method; ValueError with the valid names otherwise, or with what the file lacks."""
    methods.load(name)
    place = f"{__name__}.{name}"
    module = importlib.import_module(place) if importlib.util.find_spec(place) else None
    lacking = [part for part in _PARTS if not hasattr(module, part)]
    if lacking:
        raise ValueError(f"vicreg/networks/{name}.py lacks {', '.join(lacking)}; networks have {', '.join(_PARTS)}")
    return cast(NetworkFile, module)


def build(config: PretrainConfig, data: TrainingData) -> Method:
    """The method that a configuration names, with random weights from torch's generator."""
    method = load(config.method.name).build(config, data)
    for encoder in method.encoders.values():
        if isinstance(encoder, TextEncoder) and data.words:
            encoder.know(data.words)
    return method
