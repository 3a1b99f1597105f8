"""A step of LARS on a GPU in two kernels over all parameters: one reads for the norms, one updates. In Triton.

Own kernels because torch's fused calls pass over the values once for each operation: 52 bytes a value, where these
move 28 (8 for the norms, 20 for the update) and nothing below 20 is possible. Triton comes with torch's CUDA builds.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 1 << 15
"""Values that one program works on."""
BLOCK = 1 << 10
"""Of these at a time."""


@dataclass(frozen=True)
class Table:
    """Where parameters, gradients and momenta lie, cut into chunks of `CHUNK` values."""

    key: tuple[int, ...]
    """The addresses; a table holds as long as they do."""
    addresses: Tensor
    """int64 (T, 3): of parameter, gradient and momentum."""
    sizes: Tensor
    """int64 (T,): number of values."""
    chunks: Tensor
    """int64 (C, 2): the tensor that a chunk belongs to, and its number there."""
    sums: Tensor
    """float32 (T, most chunks of a tensor, 2): squares of parameter and gradient, chunk by chunk; else 0."""
    aligned: bool
    """Whether addresses are multiples of 16 bytes and sizes of 4 values: then four values are moved at a time."""

    @classmethod
    def build(cls, tensors: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Table:
        """Of (parameter, gradient, momentum), alike in layout; float32, without gaps."""
        device = tensors[0][0].device
        sizes = [parameter.numel() for parameter, _, _ in tensors]
        counts = [-(-size // CHUNK) for size in sizes]
        addresses = addresses_of(tensors)
        chunks = [(number, chunk) for number, count in enumerate(counts) for chunk in range(count)]
        return cls(
            key=addresses,
            addresses=torch.tensor(addresses, device=device).view(-1, 3),
            sizes=torch.tensor(sizes, device=device),
            chunks=torch.tensor(chunks, device=device),
            sums=torch.zeros((len(tensors), max(counts), 2), device=device),
            aligned=not any(address % 16 for address in addresses) and not any(size % 4 for size in sizes),
        )


def addresses_of(tensors: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[int, ...]:
    """What `Table.key` would be."""
    return tuple(tensor.data_ptr() for three in tensors for tensor in three)


def squares(table: Table, weight_decay: float) -> Tensor:
    """Sums of squares of each parameter and of gradient + weight_decay * parameter: float32 (2, T)."""
    grid = (len(table.chunks),)
    _squares[grid](
        table.addresses,
        table.sizes,
        table.chunks,
        table.sums,
        table.sums.shape[1],
        weight_decay,
        table.aligned,
        CHUNK,
        BLOCK,
    )
    return table.sums.sum(1).t()


def update(
    table: Table, factors: Tensor, found_inf: Tensor, rate: Tensor, momentum: float, weight_decay: float
) -> None:
    """m = momentum * m + factor * (g + weight_decay * p); p -= rate * m; nothing where found_inf is not 0.

    factors: one for each tensor (T,); found_inf, rate: a float () on the device.
    """
    grid = (len(table.chunks),)
    _update[grid](
        table.addresses,
        table.sizes,
        table.chunks,
        factors,
        found_inf,
        rate,
        momentum,
        weight_decay,
        table.aligned,
        CHUNK,
        BLOCK,
    )


def try_out(device: torch.device) -> None:
    """Run both kernels on a few values; raises what keeps them from working."""
    three = (torch.ones(3, device=device), torch.ones(3, device=device), torch.zeros(3, device=device))
    table, nothing = Table.build([three]), torch.zeros((), device=device)
    found = squares(table, 1.0).flatten().tolist()
    update(table, torch.ones(1, device=device), nothing, torch.full((), 0.5, device=device), 0.0, 1.0)
    if found != [3.0, 12.0] or three[0].tolist() != [0.0] * 3:
        raise RuntimeError(f"the kernels compute {found} and {three[0].tolist()}, not [3, 12] and zeros")


@triton.jit
def _squares(
    addresses,
    sizes,
    chunks,
    sums,
    row,
    weight_decay,
    aligned: tl.constexpr,
    chunk_size: tl.constexpr,
    block: tl.constexpr,
):
    tensor = tl.load(chunks + 2 * tl.program_id(0))
    number = tl.load(chunks + 2 * tl.program_id(0) + 1)
    size = tl.load(sizes + tensor)
    parameter = tl.load(addresses + 3 * tensor).to(tl.pointer_type(tl.float32))
    gradient = tl.load(addresses + 3 * tensor + 1).to(tl.pointer_type(tl.float32))
    if aligned:
        parameter, gradient = tl.multiple_of(parameter, 16), tl.multiple_of(gradient, 16)
        size = tl.multiple_of(size, 4)
    of_parameter = tl.zeros((block,), tl.float32)
    of_gradient = tl.zeros((block,), tl.float32)
    for begin in range(0, chunk_size, block):
        places = number * chunk_size + begin + tl.arange(0, block)
        p = tl.load(parameter + places, mask=places < size, other=0.0)
        g = tl.load(gradient + places, mask=places < size, other=0.0) + weight_decay * p
        of_parameter += p * p
        of_gradient += g * g
    place = 2 * (tensor * row + number)
    tl.store(sums + place, tl.sum(of_parameter, axis=0))
    tl.store(sums + place + 1, tl.sum(of_gradient, axis=0))


@triton.jit
def _update(
    addresses,
    sizes,
    chunks,
    factors,
    found_inf,
    rate,
    momentum,
    weight_decay,
    aligned: tl.constexpr,
    chunk_size: tl.constexpr,
    block: tl.constexpr,
):
    tensor = tl.load(chunks + 2 * tl.program_id(0))
    number = tl.load(chunks + 2 * tl.program_id(0) + 1)
    size = tl.where(tl.load(found_inf) == 0, tl.load(sizes + tensor), 0)
    factor, step = tl.load(factors + tensor), tl.load(rate)
    parameter = tl.load(addresses + 3 * tensor).to(tl.pointer_type(tl.float32))
    gradient = tl.load(addresses + 3 * tensor + 1).to(tl.pointer_type(tl.float32))
    momenta = tl.load(addresses + 3 * tensor + 2).to(tl.pointer_type(tl.float32))
    if aligned:
        parameter, gradient = tl.multiple_of(parameter, 16), tl.multiple_of(gradient, 16)
        momenta, size = tl.multiple_of(momenta, 16), tl.multiple_of(size, 4)
    for begin in range(0, chunk_size, block):
        places = number * chunk_size + begin + tl.arange(0, block)
        inside = places < size
        p = tl.load(parameter + places, mask=inside, other=0.0)
        g = tl.load(gradient + places, mask=inside, other=0.0)
        m = tl.load(momenta + places, mask=inside, other=0.0)
        m = momentum * m + factor * (g + weight_decay * p)
        tl.store(momenta + places, m, mask=inside)
        tl.store(parameter + places, p - step * m, mask=inside)
