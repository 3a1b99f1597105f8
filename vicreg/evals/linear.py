"""The linear protocol: one linear layer trained on the frozen encoder's features of augmented images.

As in the official program (facebookresearch/vicreg, `evaluate.py`, "freeze"), with two differences: an epoch has full
batches only, and the features of the validation images, which never change, are computed once instead of every epoch.
A grid of learning rates and weight decays costs little more than one head, because all heads share the encoder's pass.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vicreg.config import require
from vicreg.data.loaders import open_views
from vicreg.evals.encoding import Encoding
from vicreg.evals.features import Splits
from vicreg.evals.heads import LinearHeads
from vicreg.evals.results import Measured
from vicreg.evals.settings.linear import Config as Config
from vicreg.evals.settings.linear import HeadSettings
from vicreg.evals.settings.linear import epoch_rate as epoch_rate
from vicreg.evals.work import Work
from vicreg.model import num_features
from vicreg.ranks import distributed

log = logging.getLogger(__name__)

RESUMES = True  # it keeps its state and leaves by itself when it is asked to
TOP = 5
MIN_STEPS = 4  # of an epoch: the usual batch becomes smaller where it leaves fewer
LOSS, FIRST, AMONG = range(3)  # columns of a head's curve: mean loss, images right at first, and among the first 5


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
