"""The ImageNet linear protocol: one linear layer trained on the frozen encoder's features of augmented images.

As in the official program (facebookresearch/vicreg, `evaluate.py`, "freeze"), with two differences: an epoch has full
batches only, and the features of the validation images, which never change, are computed once instead of every epoch.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vicreg import distributed
from vicreg.config import ViewConfig, require
from vicreg.data import ViewLoader, open_views
from vicreg.evals.results import Measured
from vicreg.features import Splits

log = logging.getLogger(__name__)

TOP = 5
VAL_BLOCK = 4096


@dataclass(frozen=True)
class Config:
    """Source: the official code and its README; where the paper (appendix C.2) differs, it is said."""

    epochs: int = 100
    """Passes over the training images (README; paper)."""
    batch: int = 256
    """Images per step over all ranks (code; paper)."""
    lr: float = 0.02
    """Learning rate, not scaled by the batch (README; paper; the code's own default, 0.3, is Barlow Twins')."""
    momentum: float = 0.9
    """Momentum of SGD (code)."""
    weight_decay: float = 1e-6
    """Weight decay of weights and bias (code; paper)."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the area that a training crop covers (code; the paper says 0.2 to 1)."""
    hflip_p: float = 0.5
    """Probability of a horizontal flip in training (code; paper); 0 where mirroring changes the class, as of digits."""
    seed: int = 0
    """Seed of the head's first weights, of order and crops."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        self.view()

    def view(self) -> ViewConfig:
        """The augmentation of training images: crop and flip, no change of colour."""
        return ViewConfig(
            crop_scale=self.crop_scale,
            hflip_p=self.hflip_p,
            jitter_p=0.0,
            grayscale_p=0.0,
            blur_p=0.0,
            solarize_p=0.0,
        )


def evaluate(encoder: nn.Module, splits: Splits, config: Config) -> Measured:
    """Top-1 and, with more than 5 classes, top-5 accuracy in percent: of the best epoch, as published, and of the last.

    As in the official program the best is taken of each of the two, over all epochs, on the validation images
    themselves, which flatters it a little. Raises ValueError when the ranks do not divide the batch, the images do not
    fill one, or the head diverges.
    """
    head = _new_head(int(encoder.num_features), splits, config.seed)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(
        head.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    loader = open_views(
        splits.data,
        splits.beton("train"),
        (config.view(),),
        seed=config.seed,
        global_batch=config.batch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        device=splits.device,
        workers=splits.workers,
        interpolation="bilinear",
    )
    best = last = (0, 0)
    try:
        encoder.eval().to(splits.device)
        for epoch in range(config.epochs):
            rate = 0.5 * config.lr * (1 + math.cos(math.pi * epoch / config.epochs))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _train_epoch(encoder, head, optimizer, loader, epoch, splits, config)
            last = _count_correct(encoder, head, splits)
            best = max(best[0], last[0]), max(best[1], last[1])
            if (epoch + 1) % max(1, config.epochs // 10) == 0:
                percent = 100 * last[0] / len(splits.features(encoder, "val").labels)
                log.info("linear: epoch %d/%d, loss %.3f, top-1 %.1f %%", epoch + 1, config.epochs, loss, percent)
    finally:
        loader.close()
    num_val = len(splits.features(encoder, "val").labels)
    metrics: dict[str, float] = {}
    for name, counts in (("", best), ("_last_epoch", last)):
        metrics[f"top1{name}"] = 100 * counts[0] / num_val
        if splits.num_classes > TOP:
            metrics[f"top5{name}"] = 100 * counts[1] / num_val
    return Measured(metrics)


def _new_head(num_features: int, splits: Splits, seed: int) -> nn.Linear:
    """A linear layer with weights from N(0, 0.01) and no bias yet, the same on every rank."""
    head = nn.Linear(num_features, splits.num_classes)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head.to(splits.device)


def _train_epoch(
    encoder: nn.Module,
    head: nn.Linear,
    optimizer: torch.optim.SGD,
    loader: ViewLoader,
    epoch: int,
    splits: Splits,
    config: Config,
) -> float:
    """One pass over the training images; returns the mean loss, ValueError when that is not finite."""
    total = torch.zeros((), dtype=torch.float64, device=splits.device)
    for batch in loader.batches(epoch):
        batch = batch.to(splits.device)
        with torch.no_grad():
            features = encoder(splits.normalise(batch.views[0])).to(torch.float32)
        loss = F.cross_entropy(head(features), batch.labels, reduction="sum") / config.batch
        optimizer.zero_grad()
        loss.backward()
        for parameter in head.parameters():
            assert parameter.grad is not None
            distributed.sum_over_ranks(parameter.grad)
        optimizer.step()
        total += loss.detach()
    mean = float(distributed.sum_over_ranks(total).item()) / loader.num_batches
    require(math.isfinite(mean), "lr", config.lr, f"a smaller rate: the head diverged in epoch {epoch + 1}")
    return mean


@torch.no_grad()
def _count_correct(encoder: nn.Module, head: nn.Linear, splits: Splits) -> tuple[int, int]:
    """How many of all validation images have their class first, and among the first 5."""
    val = splits.features(encoder, "val")
    correct = torch.zeros(2, dtype=torch.int64, device=splits.device)
    for begin in range(0, len(val.values), VAL_BLOCK):
        scores: Tensor = head(val.values[begin : begin + VAL_BLOCK].to(splits.device))
        truth = val.own_labels[begin : begin + VAL_BLOCK].to(splits.device)[:, None]
        hits = scores.topk(min(TOP, splits.num_classes)).indices == truth
        correct += torch.stack([hits[:, 0].sum(), hits.sum()])
    first, among = distributed.sum_over_ranks(correct).tolist()
    return first, among
