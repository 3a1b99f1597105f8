"""An embedding of every training image, which follows what the network says of it: PIRL's and CMC's memory bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg.config import require
from vicreg.losses.contrastive import contrast_cost
from vicreg.losses.forms import FormCost, ring_sum_bytes
from vicreg.method import LossCost
from vicreg.ranks import distributed


class MemoryBank(nn.Module):
    """`num_samples` entries of length 1 (num_samples x D), the same on every rank; at first random ones.

    They are a buffer, and so in every checkpoint.
    """

    entries: Tensor

    def __init__(self, num_samples: int, dims: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("entries", functional.normalize(torch.empty(num_samples, dims).normal_()))

    def own(self, samples: Tensor) -> Tensor:
        """The entries (n, D) of samples (n,)."""
        return self.entries[samples]

    def others(self, samples: Tensor, number: int, seed: int) -> Tensor:
        """Entries (number, D) of images outside the global batch, drawn with replacement; the same on every rank.

        samples: (n,) of this rank, none twice in the global batch. ValueError where the batch is all there is.
        """
        batch = distributed.gather_rows(samples).sort().values
        outside = len(self.entries) - len(batch)
        require(outside > 0, "global_batch", len(batch), f"below the number of samples, {len(self.entries)}")
        generator = torch.Generator(batch.device).manual_seed(seed)
        places = torch.randint(outside, (number,), generator=generator, device=batch.device)
        # The place among those outside, plus the number of samples of the batch that lie before.
        before = torch.searchsorted(batch - torch.arange(len(batch), device=batch.device), places, right=True)
        return self.entries[places + before]

    def follow(self, samples: Tensor, own: Tensor, taken: Tensor) -> None:
        """Move the global batch's entries towards `own` rows (n, D) of samples (n,); not at all unless `taken`."""
        everyone = distributed.gather_rows(samples)
        new = distributed.gather_rows(own).to(self.entries.dtype)
        old = self.entries[everyone]
        moved = functional.normalize(old * self.momentum + new * (1 - self.momentum))
        self.entries[everyone] = torch.where(taken, moved, old)


def bank_cost(total: int, dims: int, num_negatives: int, num_losses: int, ranks: int, size: int) -> LossCost:
    """What so many comparisons of N x D rows with a bank's entries take, one after the other."""
    rows = total // ranks
    each = contrast_cost(rows, num_negatives, dims, ranks, size, twice=False)
    entries = (num_negatives + rows) * dims * size
    only = FormCost(
        flops=num_losses * each.flops,
        memory_bytes=each.memory_bytes + entries,
        sent_bytes=(ranks - 1) / ranks * total * (dims * size + 2 * 8),
        num_collectives=2 + num_losses * (each.num_collectives + 1),
    )
    own = rows * dims * size * num_losses
    title = f"{total} x {dims} beside {num_negatives} of a memory bank"
    return LossCost(title, {"only": only}, 3 * own, ring_sum_bytes(2 * dims * size, ranks), 6 * own)
