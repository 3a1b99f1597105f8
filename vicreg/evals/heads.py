"""Many linear heads on the same features, each with its own learning rate and weight decay, as one matrix product.

The ranks share the heads, not the images: the features of a global batch are small, and a rank that has all of them
needs nobody's gradients. So a head takes the same steps on any number of ranks, and its batch norm sees all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vicreg.evals.settings.linear import HeadSettings
from vicreg.ranks import distributed

INITIAL_STD = 0.01
NORM_EPS, NORM_MOMENTUM = 1e-5, 0.1
STEPPED = ("weight", "bias", "scale", "shift")
MAX_SCORES = 1 << 26  # numbers that a block of validation images may take at once


class LinearHeads:
    """This rank's share of the heads (every world_size-th), with SGD's momentum; all begin with the same weights.

    One step is torch.optim.SGD's of `momentum` and `nesterov` on each head alone. With `batch_norm` a head is
    BatchNorm1d, then Linear; its scale and shift are not decayed, as in VISSL (regularize_bn: False).
    """

    def __init__(
        self,
        settings: Sequence[HeadSettings],
        num_features: int,
        num_classes: int,
        *,
        momentum: float,
        nesterov: bool,
        batch_norm: bool,
        seed: int,
        device: torch.device,
    ) -> None:
        self.num_heads, self.num_classes, self.batch_norm = len(settings), num_classes, batch_norm
        self._momentum, self._nesterov, self._device = momentum, nesterov, device
        self.own = list(range(distributed.rank(), len(settings), distributed.world_size()))
        generator = torch.Generator().manual_seed(seed)
        first = nn.init.normal_(torch.empty(num_classes, num_features), std=INITIAL_STD, generator=generator)
        num = len(self.own)
        self.parameters = {"weight": first.repeat(num, 1, 1), "bias": torch.zeros(num, num_classes)}
        if batch_norm:
            self.parameters |= {"scale": torch.ones(num, num_features), "shift": torch.zeros(num, num_features)}
        self.parameters = {name: tensor.to(device).requires_grad_() for name, tensor in self.parameters.items()}
        self._momenta = {name: torch.zeros_like(tensor) for name, tensor in self.parameters.items()}
        self.running_mean = torch.zeros(num_features, device=device)
        self.running_var = torch.ones(num_features, device=device)
        chosen = [settings[number] for number in self.own]
        self._lr = torch.tensor([head.lr for head in chosen], device=device)
        self._weight_decay = torch.tensor([head.weight_decay for head in chosen], device=device)

    def step(self, features: Tensor, labels: Tensor, rate: float) -> Tensor:
        """One step on the features (B, D) and labels (B,) of a global batch; returns each head's mean loss (own,).

        rate: this epoch's share of the learning rates.
        """
        if self.batch_norm:
            features = self._normalise_batch(features)
        if not self.own:
            return torch.zeros(0, device=self._device)
        scores = self._scores(features)
        repeated = labels[:, None].expand(-1, len(self.own)).flatten()
        losses = F.cross_entropy(scores.flatten(0, 1), repeated, reduction="none").view(len(labels), -1).mean(0)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        with torch.no_grad():
            for name, gradient in zip(self.parameters, gradients, strict=True):
                self._descend(name, gradient, rate)
        return losses.detach()

    def _descend(self, name: str, gradient: Tensor, rate: float) -> None:
        parameter, momentum = self.parameters[name], self._momenta[name]
        per_head = (-1,) + (1,) * (parameter.ndim - 1)
        if name in ("weight", "bias"):
            gradient = gradient.addcmul_(parameter, self._weight_decay.view(per_head))
        momentum.mul_(self._momentum).add_(gradient)
        direction = gradient.add_(momentum, alpha=self._momentum) if self._nesterov else momentum
        parameter.addcmul_(direction, self._lr.view(per_head), value=-rate)

    @torch.no_grad()
    def count_correct(self, features: Tensor, labels: Tensor, top: int) -> Tensor:
        """How many images have their class first, and among the first `top`: int64 (own, 2).

        features (N, D) and labels (N,): all validation images, on the CPU or the device.
        """
        correct = torch.zeros((len(self.own), 2), dtype=torch.int64, device=self._device)
        if not self.own:
            return correct
        block = max(1, MAX_SCORES // (len(self.own) * self.num_classes))
        for begin in range(0, len(features), block):
            rows = features[begin : begin + block].to(self._device)
            if self.batch_norm:
                rows = (rows - self.running_mean) * (self.running_var + NORM_EPS).rsqrt()
            truth = labels[begin : begin + block].to(self._device)[:, None, None]
            hits = self._scores(rows).topk(min(top, self.num_classes)).indices == truth
            correct += torch.stack([hits[..., 0].sum(0), hits.sum((0, 2))], dim=1)
        return correct

    def _scores(self, features: Tensor) -> Tensor:
        """(B, own, num_classes) in one matrix product; a batch norm's scale and shift go into weights and bias."""
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        if self.batch_norm:
            bias = bias + torch.einsum("hcd,hd->hc", weight, self.parameters["shift"])
            weight = weight * self.parameters["scale"][:, None]
        scores: Tensor = F.linear(features, weight.flatten(0, 1), bias.flatten())
        return scores.view(len(features), len(self.own), -1)

    def _normalise_batch(self, features: Tensor) -> Tensor:
        """As BatchNorm1d in training; the running statistics belong to all heads, which see the same features."""
        return F.batch_norm(
            features, self.running_mean, self.running_var, training=True, momentum=NORM_MOMENTUM, eps=NORM_EPS
        )

    def gather(self, own: Tensor) -> Tensor:
        """Rows of all heads (num_heads, ...) in their order, from every rank's own (own, ...); all call it together."""
        world_size = distributed.world_size()
        counts = [len(range(rank, self.num_heads, world_size)) for rank in range(world_size)]
        rows = distributed.gather_uneven_rows(own, counts)
        order = [number for rank in range(world_size) for number in range(rank, self.num_heads, world_size)]
        return rows[torch.tensor(order, device=rows.device).argsort()]

    def state(self) -> dict[str, Any]:
        """All heads, of all ranks, on the CPU; all call it together."""
        kept = {f"parameter.{name}": tensor.detach() for name, tensor in self.parameters.items()}
        kept |= {f"momentum.{name}": tensor for name, tensor in self._momenta.items()}
        whole = {name: self.gather(tensor).cpu() for name, tensor in kept.items()}
        return whole | {"running_mean": self.running_mean.cpu(), "running_var": self.running_var.cpu()}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state; each rank takes its own heads from it."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[f"parameter.{name}"][self.own])
            self._momenta[name].copy_(state[f"momentum.{name}"][self.own])
        self.running_mean.copy_(state["running_mean"])
        self.running_var.copy_(state["running_var"])
