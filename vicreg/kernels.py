"""Own Triton kernels, where they run: on a GPU whose machine has Triton and the C compiler that it needs."""

from __future__ import annotations

import functools
import importlib
import logging
from types import ModuleType

import torch

log = logging.getLogger(__name__)


@functools.cache
def load(name: str, device: torch.device) -> ModuleType | None:
    """The module of that full name once its kernels have worked on a few values on the device; else None and a warning.

    Whoever asks has another way to the same result, in torch's own operations.
    """
    if device.type != "cuda":
        return None
    try:
        module = importlib.import_module(name)
        module.try_out(device)
    except Exception as error:  # whatever keeps a compiler from working
        log.warning("%s do not run here, which costs some speed: %s: %s", name, type(error).__name__, error)
        return None
    return module
