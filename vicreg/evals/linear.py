"""The linear protocol: one linear layer trained on the frozen encoder's features of augmented images.

As in the official program (facebookresearch/vicreg, `evaluate.py`, "freeze"), with two differences: an epoch has full
batches only, and the features of the validation images, which never change, are computed once instead of every epoch.
A grid of learning rates and weight decays costs little more than one head, because all heads share the encoder's pass.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vicreg.config import ViewConfig, require
from vicreg.data.loaders import open_views
from vicreg.evals.encoding import Encoding
from vicreg.evals.features import Splits
from vicreg.evals.heads import HeadSettings, LinearHeads
from vicreg.evals.results import Measured
from vicreg.evals.work import Work
from vicreg.model import num_features
from vicreg.ranks import distributed

log = logging.getLogger(__name__)

RESUMES = True  # it keeps its state and leaves by itself when it is asked to
TOP = 5
MIN_STEPS = 4  # of an epoch: the usual batch becomes smaller where it leaves fewer
LOSS, FIRST, AMONG = range(3)  # columns of a head's curve: mean loss, images right at first, and among the first 5


@dataclass(frozen=True)
class Config:
    """Source: the official code and its README; where the paper (appendix C.2) differs, it is said."""

    epochs: int = 100
    """Passes over the training images (README; paper)."""
    batch: int = 256
    """Images per step over all ranks (code; paper)."""
    lr: float = 0.02
    """Learning rate, not scaled by the batch (README; paper; the code's own default, 0.3, is Barlow Twins')."""
    weight_decay: float = 1e-6
    """Weight decay of weights and bias (code; paper)."""
    grid_lrs: tuple[float, ...] = ()
    """More learning rates to try, each with every weight decay; the result that counts stays that of `lr`."""
    grid_weight_decays: tuple[float, ...] = ()
    """More weight decays to try, each with every learning rate."""
    momentum: float = 0.9
    """Momentum of SGD (code)."""
    nesterov: bool = False
    """Nesterov's momentum (code: no; VISSL: yes)."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the rate falls to a tenth; without any it falls as a half cosine, epoch by epoch (code)."""
    batch_norm: bool = False
    """Batch norm between features and layer (code: no; VISSL's transfer benchmarks: yes)."""
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
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(all(lr > 0 for lr in self.grid_lrs), "grid_lrs", self.grid_lrs, "numbers above 0")
        decays = self.grid_weight_decays
        require(all(decay >= 0 for decay in decays), "grid_weight_decays", decays, "numbers of 0 or more")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        ascending = sorted(set(self.milestones)) == list(self.milestones)
        inside = all(0 < epoch < self.epochs for epoch in self.milestones)
        allowed = f"ascending numbers of epochs from 1 to {self.epochs - 1}"
        require(ascending and inside, "milestones", self.milestones, allowed)
        self.view()

    def view(self) -> ViewConfig:
        """The augmentation of training images: crop and flip, no change of colour."""
        return crop_and_flip(self.crop_scale, self.hflip_p)

    def heads(self) -> list[HeadSettings]:
        """All heads, the published one first."""
        lrs = dict.fromkeys((self.lr, *self.grid_lrs))
        decays = dict.fromkeys((self.weight_decay, *self.grid_weight_decays))
        return [HeadSettings(lr, decay) for lr, decay in itertools.product(lrs, decays)]

    def rate(self, epoch: int) -> float:
        """Share of the learning rate in an epoch."""
        return epoch_rate(epoch, self.epochs, self.milestones)


def crop_and_flip(crop_scale: tuple[float, float], hflip_p: float) -> ViewConfig:
    """A view without changes of colour."""
    return ViewConfig(crop_scale=crop_scale, hflip_p=hflip_p, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0, solarize_p=0.0)


def epoch_rate(epoch: int, epochs: int, milestones: tuple[int, ...] = ()) -> float:
    """Share of the learning rate: a tenth after each milestone, or the half cosine of the official code."""
    if milestones:
        return float(0.1 ** sum(epoch >= milestone for milestone in milestones))
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def fitted(config: Config, splits: Splits, given: Collection[str]) -> tuple[Config, list[str]]:
    """Settings that the data allow, but for those `given`, and what was changed."""
    num, ranks = len(splits.labels("train")), distributed.world_size()
    is_usual = config.batch == Config.batch
    fits = num >= (MIN_STEPS if is_usual else 1) * config.batch
    batch = config.batch if fits else 1 << max(num // MIN_STEPS, 1).bit_length() - 1
    batch = max(ranks, batch - batch % ranks)
    if "batch" in given or batch == config.batch:
        return config, []
    where = f" and {ranks} ranks" if ranks > 1 else ""
    said = f"batch {batch} instead of {config.batch}, for {num} training images{where}"
    return replace(config, batch=batch), [said]


def evaluate(encoder: nn.Module, splits: Splits, config: Config, work: Work | None = None) -> Measured:
    """Top-1 and, with more than 5 classes, top-5 accuracy in percent: of the best epoch, as published, and of the last.

    As in the official program the best is taken of each of the two, over all epochs, on the validation images
    themselves, which flatters it a little. They are those of the published setting; the best of a grid stands beside
    them. Raises ValueError when the ranks do not divide the batch, the images do not fill one, or the published head
    diverges; Stopped when `work` asks to stop.
    """
    splits.require_multi_label(False, "linear")
    work = work or Work()
    settings = config.heads()
    heads = LinearHeads(
        settings,
        num_features(encoder),
        splits.num_classes,
        momentum=config.momentum,
        nesterov=config.nesterov,
        batch_norm=config.batch_norm,
        seed=config.seed,
        device=splits.device,
    )
    curves = _train(encoder, splits, config, heads, work)
    num_val = len(splits.features(encoder, "val").labels)
    return _say(config, settings, curves, num_val, splits.num_classes)


def _train(encoder: nn.Module, splits: Splits, config: Config, heads: LinearHeads, work: Work) -> Tensor:
    """All epochs; returns the curves of all heads (num_heads, epochs, 3)."""
    device = splits.device
    val = splits.features(encoder, "val")
    queries = val.all_rows(device)
    loader = open_views(
        splits.data,
        splits.beton("train"),
        (config.view(),),
        seed=config.seed,
        global_batch=config.batch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        device=device,
        workers=splits.workers,
        interpolation="bilinear",
    )
    curves = torch.zeros((len(heads.own), config.epochs, 3), dtype=torch.float64, device=device)
    step, per_epoch = 0, loader.num_batches
    num_steps = per_epoch * config.epochs

    def state() -> dict[str, Any]:
        return {"step": step, "heads": heads.state(), "curves": heads.gather(curves).cpu()}

    if before := work.load():
        step = int(before["step"])
        heads.load(before["heads"])
        curves.copy_(before["curves"][heads.own])
    images_left = (num_steps - step) * config.batch // distributed.world_size()
    encoding = Encoding(encoder, device, splits.precision, images_left)
    with closing(loader):
        while step < num_steps:
            epoch, first_batch = divmod(step, per_epoch)
            with closing(loader.batches(epoch, first_batch)) as batches:
                for batch in batches:
                    batch = batch.to(device)
                    features = encoding(splits.normalise(batch.views[0]))
                    features, labels = distributed.gather_rows(features), distributed.gather_rows(batch.labels)
                    curves[:, epoch, LOSS] += heads.step(features, labels, config.rate(epoch)) / per_epoch
                    step += 1
                    work.beat(step, num_steps)
                    if step % per_epoch:
                        work.leave_if_asked(step, state)
            curves[:, epoch, FIRST:] = heads.count_correct(queries, val.labels, TOP).double()
            _watch(config, epoch, heads.gather(curves[:, epoch]), len(queries))
            work.save_if_due(step, state)
            if step < num_steps:
                work.leave_if_asked(step, state)
    return heads.gather(curves).cpu()


def _watch(config: Config, epoch: int, all_heads: Tensor, num_val: int) -> None:
    """Say how the published head does, ten times in all; ValueError when it has diverged."""
    loss, first, _ = all_heads[0].tolist()
    require(math.isfinite(loss), "lr", config.lr, f"a smaller rate: the head diverged in epoch {epoch + 1}")
    if (epoch + 1) % max(1, config.epochs // 10) == 0:
        log.info("linear: epoch %d/%d, loss %.3f, top-1 %.1f %%", epoch + 1, config.epochs, loss, 100 * first / num_val)


def _say(config: Config, settings: list[HeadSettings], curves: Tensor, num_val: int, num_classes: int) -> Measured:
    """Metrics of the published head and of the best one; the curves of all, with None where a head has diverged."""
    columns = {"top1": FIRST} | ({"top5": AMONG} if num_classes > TOP else {})
    finite = curves[..., LOSS].isfinite()
    percent = torch.where(finite[..., None], 100 * curves / num_val, -1.0)
    metrics = {name: float(percent[0, :, column].max()) for name, column in columns.items()}
    metrics |= {f"{name}_last_epoch": float(percent[0, -1, column]) for name, column in columns.items()}
    details: dict[str, Any] = {"epochs": config.epochs, "heads": []}
    for number, head in enumerate(settings):
        curve: dict[str, Any] = {"lr": head.lr, "weight_decay": head.weight_decay, "published": number == 0}
        for name, values in (
            ("loss", curves[number, :, LOSS]),
            *((n, percent[number, :, c]) for n, c in columns.items()),
        ):
            pairs = zip(values.tolist(), finite[number].tolist(), strict=True)
            curve[name] = [value if known else None for value, known in pairs]
        details["heads"].append(curve)
    if len(settings) > 1:
        best = int(percent[:, :, FIRST].max(dim=1).values.argmax())
        metrics |= {f"{name}_grid_best": float(percent[best, :, column].max()) for name, column in columns.items()}
        details["grid_best"] = {"lr": settings[best].lr, "weight_decay": settings[best].weight_decay}
    return Measured(metrics, details)
