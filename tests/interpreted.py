"""Triton kernels on the CPU: by Triton's interpreter, in a process of their own, and compiled for GPUs without one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar
from unittest.mock import patch

import torch

T = TypeVar("T")


def interpreted(work: Callable[..., T], *arguments: Any) -> T:
    """work(*arguments) with every kernel of the suite interpreted; Triton decides when it is imported how to run."""
    with (
        patch.dict(os.environ, {"TRITON_INTERPRET": "1"}),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process,
    ):
        return process.submit(_with_kernels, work, arguments).result()


def _with_kernels(work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    import importlib

    from vicreg import kernels

    def load(name: str, device: torch.device) -> Any:
        module = importlib.import_module(name)
        module.try_out(torch.device("cpu"))
        return module

    with patch.object(kernels, "load", load):
        return work(*arguments)


CAPABILITIES = (75, 80, 86, 89, 90, 100)
"""Compute capabilities of the cards that everything has to compile for: T4, A100, RTX 30, RTX 40 and L4, H100, B200."""


def ptx(kernel: Any, signature: dict[str, str], constants: dict[str, Any], capability: int) -> str:
    """The kernel compiled for GPUs of a compute capability, such as 90."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    source = ASTSource(fn=kernel, signature=signature | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    text: str = compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
    return text
