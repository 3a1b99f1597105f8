"""Runs a function on several gloo ranks of this machine and returns what rank 0 returned."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from vicreg.ranks.distributed import Placement
from vicreg.ranks.rendezvous import connected

# Ranks are forked from a process that has imported what takes long, and done nothing else: 20 times quicker.
FORKSERVER = multiprocessing.get_context("forkserver")
_PRELOADED = ["tests.ranks", "torchvision.models", "vicreg.training.train", "vicreg.evals.linear"]
FORKSERVER.set_forkserver_preload(_PRELOADED)


def run_ranks(function: Callable[..., Any], num_ranks: int, folder: Path, *arguments: Any) -> Any:
    """`function(*arguments)` inside a group of `num_ranks` processes; errors of any rank are raised here."""
    rendezvous = folder / f"rendezvous_{num_ranks}_{function.__name__}.json"
    with ProcessPoolExecutor(num_ranks, mp_context=FORKSERVER) as pool:
        futures = [pool.submit(_on_rank, function, rank, num_ranks, rendezvous, arguments) for rank in range(num_ranks)]
        results = [future.result() for future in futures]
    return results[0]


def _on_rank(function: Callable[..., Any], rank: int, num_ranks: int, rendezvous: Path, arguments: Any) -> Any:
    torch.set_num_threads(1)
    with connected(Placement(rank, num_ranks, rank, num_ranks), rendezvous, timeout_s=60):
        return function(*arguments)
