"""The newest keys of a run, oldest overwritten first: MoCo's queue (He et al., CVPR 2020, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg.config import require
from vicreg.ranks import distributed


class KeyQueue(nn.Module):
    """`length` keys (length x D, of length 1), the same on every rank; at first random ones, as in the official code.

    They and the place of the oldest are buffers, and so in every checkpoint. ValueError unless a global batch fills a
    whole part of it.
    """

    keys: Tensor
    oldest: Tensor

    def __init__(self, length: int, dims: int, global_batch: int) -> None:
        super().__init__()
        is_whole = length > 0 and length % global_batch == 0
        require(is_whole, "queue_length", length, f"a multiple of global_batch ({global_batch})")
        self.register_buffer("keys", functional.normalize(torch.randn(length, dims)))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    def push(self, own: Tensor, taken: Tensor) -> None:
        """Exchange the oldest keys for those of the global batch, of which a rank has n x D; nothing unless `taken`."""
        new = distributed.gather_rows(own).to(self.keys.dtype)
        places = (self.oldest + torch.arange(len(new), device=new.device)) % len(self.keys)
        self.keys[places] = torch.where(taken, new, self.keys[places])
        self.oldest.add_(torch.where(taken, len(new), 0)).remainder_(len(self.keys))
