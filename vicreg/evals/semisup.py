"""Semi-supervised fine-tuning: the whole encoder and a linear layer trained on few labelled images.

As in the official program (facebookresearch/vicreg, `evaluate.py`, "finetune"), with three differences: an epoch has
full batches only; batch norm takes its statistics from the global batch, where the official program takes those of
each GPU's share (so here the result does not depend on the number of GPUs); each run begins with a fresh copy of the
encoder, which itself stays as it was.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dataprep.beton.contract import open_beton
from dataprep.beton.subset import OFFICIAL_LISTS, draw_per_class, read_subset, subset_path
from vicreg.config import require
from vicreg.data.loaders import ViewLoader, open_views
from vicreg.evals.features import Splits, compute_features
from vicreg.evals.linear import TOP
from vicreg.evals.protocols import IMAGENET_TRAIN
from vicreg.evals.results import CannotMeasure, Measured
from vicreg.evals.settings.linear import epoch_rate
from vicreg.evals.settings.semisup import Config as Config
from vicreg.evals.work import Work
from vicreg.half_precision import HALVES, autocast, dtype_of
from vicreg.model import num_features
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise

log = logging.getLogger(__name__)

RESUMES = True  # it keeps its state and leaves by itself when it is asked to
OFFICIAL_SHARES = dict(zip(OFFICIAL_LISTS, (0.01, 0.1), strict=True))
"""Of the labels, in SimCLR's lists."""
LOSS, FIRST, AMONG = range(3)  # columns of the curve, as those of linear


class Classifier(nn.Module):
    """An encoder with a linear layer behind it."""

    def __init__(self, encoder: nn.Module, num_classes: int, seed: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.head = nn.Linear(num_features(encoder), num_classes)
        nn.init.normal_(self.head.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) to scores (B, num_classes)."""
        scores: Tensor = self.head(self.encoder(images))
        return scores


def fitted(config: Config, splits: Splits, given: Collection[str]) -> tuple[Config, list[str]]:
    """Settings that the data allow, but for those `given`, and what was changed."""
    splits.require_multi_label(False, "semisup")
    notes: list[str] = []
    train = splits.beton("train")
    may_draw = "subset" not in given and len(splits.labels("train")) != IMAGENET_TRAIN
    if config.subset and may_draw and not subset_path(train, config.subset).is_file():
        share = OFFICIAL_SHARES.get(config.subset, config.fraction)
        if "fraction" in given:
            share = config.fraction
        notes.append(f"{share:g} of each class drawn with seed {config.seed}, as there is no list {config.subset}")
        config = replace(config, subset="", fraction=share)
    num, ranks = len(choose_labelled(splits, config)), distributed.world_size()
    batch = min(config.batch, num)
    batch = max(2, ranks, batch - batch % ranks)
    if "batch" not in given and batch != config.batch:
        where = f" and {ranks} ranks" if ranks > 1 else ""
        notes.append(f"batch {batch} instead of {config.batch}, for {num} labelled images{where}")
        config = replace(config, batch=batch)
    return config, notes


def evaluate(encoder: nn.Module, splits: Splits, config: Config, work: Work | None = None) -> Measured:
    """Top-1 and, with more than 5 classes, top-5 accuracy in percent: of the best epoch, as published, and of the last.

    Raises BetonError where the subset is missing, ValueError when the labelled images do not fill a batch, the ranks
    do not divide it, or the loss does not stay finite; Stopped when `work` asks to stop.
    """
    splits.require_multi_label(False, "semisup")
    labelled = choose_labelled(splits, config)
    if len(labelled) < config.batch:
        raise CannotMeasure(
            f"batch is {config.batch}, allowed: up to the {len(labelled)} labelled images; choose a smaller batch or "
            "more labels"
        )
    with closing(_loader(splits, config, labelled)) as loader:
        tuning = _Tuning(encoder, splits, config, loader)
        tuning.run(work or Work())
    num_val = len(open_beton(splits.beton("val")).labels)
    curve = tuning.curve.cpu()
    columns = {"top1": FIRST} | ({"top5": AMONG} if splits.num_classes > TOP else {})
    percent = {name: (100 * curve[:, column] / num_val).tolist() for name, column in columns.items()}
    metrics = {name: max(values) for name, values in percent.items()}
    metrics |= {f"{name}_last_epoch": values[-1] for name, values in percent.items()}
    details = {"epochs": config.epochs, "num_labelled": len(labelled), "loss": curve[:, LOSS].tolist(), **percent}
    return Measured(metrics, details)


def choose_labelled(splits: Splits, config: Config) -> NDArray[np.int64]:
    """The labelled training images, ascending places in the beton."""
    if config.subset:
        return read_subset(splits.beton("train"), config.subset)
    return draw_per_class(open_beton(splits.beton("train")).labels, config.fraction, config.seed)


def _loader(splits: Splits, config: Config, labelled: NDArray[np.int64]) -> ViewLoader:
    return open_views(
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
        subset=labelled,
    )


class _Tuning:
    """The classifier, its optimizer, and how far they are."""

    def __init__(self, encoder: nn.Module, splits: Splits, config: Config, loader: ViewLoader) -> None:
        self._splits, self._config, self._loader = splits, config, loader
        self._model = Classifier(encoder, splits.num_classes, config.seed).to(splits.device).train()
        self._dtype = dtype_of(splits.precision, splits.device)
        self._scaler = torch.amp.GradScaler(splits.device.type, enabled=self._dtype == torch.float16)
        if self._dtype in HALVES:
            self._model.to(memory_format=torch.channels_last)
        synchronise(self._model, splits.device)
        self._optimizer = torch.optim.SGD(
            [
                {"params": self._model.encoder.parameters(), "base_lr": config.lr_encoder},
                {"params": self._model.head.parameters(), "base_lr": config.lr_head},
            ],
            lr=config.lr_head,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self._gradients = GradientSum(self._model)
        self._step = 0
        self.curve = torch.zeros((config.epochs, 3), dtype=torch.float64, device=splits.device)
        """Per epoch: mean loss, validation images right at first, and among the first 5."""

    def run(self, work: Work) -> None:
        """All epochs, from the state that `work` has."""
        device, per_epoch = self._splits.device, self._loader.num_batches
        num_steps = per_epoch * self._config.epochs
        if before := work.load():
            self._load(before)
        while self._step < num_steps:
            epoch, first_batch = divmod(self._step, per_epoch)
            rate = epoch_rate(epoch, self._config.epochs)
            for group in self._optimizer.param_groups:
                group["lr"] = rate * group["base_lr"]
            with closing(self._loader.batches(epoch, first_batch)) as batches:
                for batch in batches:
                    batch = batch.to(device)
                    loss = self._learn(self._splits.normalise(batch.views[0]), batch.labels)
                    self.curve[epoch, LOSS] += loss / per_epoch
                    self._step += 1
                    work.beat(self._step, num_steps)
                    if self._step % per_epoch:
                        work.leave_if_asked(self._step, self._state)
            self._measure(epoch)
            work.save_if_due(self._step, self._state)
            if self._step < num_steps:
                work.leave_if_asked(self._step, self._state)

    def _learn(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on this rank's part of a global batch; returns the mean loss of the whole of it."""
        torch.manual_seed(_step_seed(self._config.seed, self._step))  # dropout, stochastic depth
        self._gradients.clear()
        with autocast(self._splits.device, self._dtype):
            scores = self._model(images)
        loss = F.cross_entropy(scores.to(torch.float32), labels, reduction="sum") / self._config.batch
        self._scaler.scale(loss).backward()
        self._gradients.finish()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return distributed.sum_over_ranks(loss.detach())

    def _measure(self, epoch: int) -> None:
        """Count what is right after an epoch, every validation image once."""
        splits, device = self._splits, self._splits.device
        loss, rates = float(self.curve[epoch, LOSS]), (self._config.lr_encoder, self._config.lr_head)
        allowed = f"smaller rates: it diverged in epoch {epoch + 1}"
        require(math.isfinite(loss), "lr_encoder, lr_head", rates, allowed)
        # Of weights that nobody will have again: nothing of it is worth keeping.
        val = compute_features(self._model.encoder, replace(splits, parts=None, shared=None), "val")
        with torch.no_grad():
            scores = self._model.head(val.values.to(device))
        self._model.train()
        hits = scores.topk(min(TOP, splits.num_classes)).indices == val.own_labels.to(device)[:, None]
        correct = distributed.sum_over_ranks(torch.stack([hits[:, 0].sum(), hits.sum()]))
        self.curve[epoch, FIRST:] = correct.double()
        if (epoch + 1) % max(1, self._config.epochs // 10) == 0:
            percent = 100 * int(correct[0]) / len(val.labels)
            log.info("semisup: epoch %d/%d, loss %.3f, top-1 %.1f %%", epoch + 1, self._config.epochs, loss, percent)

    def _state(self) -> dict[str, Any]:
        model, optimizer = self._model.state_dict(), self._optimizer.state_dict()
        scaler = self._scaler.state_dict()
        return {
            "step": self._step,
            "model": model,
            "optimizer": optimizer,
            "scaler": scaler,
            "curve": self.curve.cpu(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        self._step = int(state["step"])
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.curve.copy_(state["curve"])


def _step_seed(seed: int, step: int) -> int:
    return ((seed * 1_000_003 + step) * 65_537 + distributed.rank()) % 2**63
