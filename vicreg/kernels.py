"""Own Triton kernels, where they run: on a GPU whose machine has Triton and the C compiler that it needs.

And whether what torch compiles could be run here.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import tempfile
from pathlib import Path
from types import ModuleType

import torch

log = logging.getLogger(__name__)

COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # where torch.compile puts what it makes, if it is set


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


def require_executable_folder() -> None:
    """ValueError where nothing may be executed from the folder in which torch.compile puts what it makes."""
    folder = Path(os.environ.get(COMPILED_VARIABLE) or tempfile.gettempdir()).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        raise ValueError(
            f"compile is True, but nothing may be executed from {folder} (its disk is mounted noexec), where "
            f"torch.compile puts what it makes; set {COMPILED_VARIABLE} to a folder on another disk (environment in "
            "clusters.toml), or leave compile out"
        )
