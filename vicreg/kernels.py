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

from border.private_folder import private_folder, require_private, temporary_folder

log = logging.getLogger(__name__)

COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # where torch.compile puts what it makes, if it is set
TRITON_VARIABLE = "TRITON_CACHE_DIR"  # the same of our own kernels


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


def keep_compiled_code() -> Path:
    """Let what is compiled be kept, for the next start too, in a folder of this user alone; returns it.

    That is the folder that TORCHINDUCTOR_CACHE_DIR names (environment in clusters.toml) or, where that is everybody's,
    this user's own in it; without the name it lies in the temporary folder. What is loaded from there is executed:
    PermissionError where others may write.
    """
    named = os.environ.get(COMPILED_VARIABLE)
    folder = _own_folder(Path(named).absolute()) if named else temporary_folder("compiled")
    os.environ[COMPILED_VARIABLE] = str(folder)
    os.environ.setdefault(TRITON_VARIABLE, str(folder / "triton"))
    return folder


def _own_folder(named: Path) -> Path:
    try:
        require_private(named)
        return named
    except OSError:
        return private_folder(named / f"user-{os.geteuid()}")
