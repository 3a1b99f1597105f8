"""The place of a rank that somebody else has started, torchrun or a PyTorch job of Kubernetes, by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_SIZE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Which of the given ranks this process is."""

    rank: int
    world_size: int
    local_rank: int = 0
    local_size: int = 1


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place, or None where nobody has given it one; ValueError for one that cannot be.

    torchrun sets all of the variables (https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables);
    Kubernetes' PyTorch jobs, one process to a pod, those without LOCAL.
    """
    if not all(environment.get(name) for name in (RANK, WORLD_SIZE, *ADDRESS)):
        return None
    names = [RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_SIZE]
    texts = [environment.get(name, default) for name, default in zip(names, ("", "", "0", "1"), strict=True)]
    said = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))
    if not all(text.isascii() and text.isdecimal() for text in (*texts, environment[ADDRESS[1]])):
        raise ValueError(f"{said}, {ADDRESS[1]}={environment[ADDRESS[1]]}, allowed: numbers, as torchrun sets them")
    rank, world_size, local_rank, local_size = map(int, texts)
    if not (rank < world_size and local_rank < local_size <= world_size and world_size % local_size == 0):
        raise ValueError(f"{said}, allowed: equally many ranks on each machine, counted from 0, as torchrun sets them")
    return Place(rank, world_size, local_rank, local_size)


def speaks() -> bool:
    """Whether this process says and writes down what is planned: not where another one of the same command does."""
    given = place()
    return given is None or given.rank == 0
