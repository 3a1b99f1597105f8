"""Sound: a linear classifier on frozen features of whole clips, and the encoder tuned with one, by held-out folds.

Data sets of sound come with folds: ESC-50's five, of which the paper (appendix D.2, Table 6) has one held out and does
not say which. So both are measured: the validation split alone, and the mean of all folds, each held out once. The
encoder has been pretrained on the training split, without its labels, so that of the folds of the training split it has
heard the clips; of the validation split it has heard none.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vicreg.config import require
from vicreg.evals.clip_pool import ALL_FOLDS, HELD_OUT, ClipPool, Division
from vicreg.evals.features import Splits
from vicreg.evals.few_labels import fit_and_predict
from vicreg.evals.results import CannotMeasure, Measured
from vicreg.evals.semisup import Classifier
from vicreg.evals.settings.linear import epoch_rate
from vicreg.evals.settings.sound import Config as Config
from vicreg.evals.work import Work
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise
from vicreg.sound_config import SoundViewConfig
from vicreg.views.order import epoch_order, rank_batch
from vicreg.views.sound import SoundPlan
from vicreg.views.view_parameters import Key

log = logging.getLogger(__name__)

RESUMES = True  # it keeps its state and leaves by itself when it is asked to
LINEAR, TUNED = "linear", "tuned"


def evaluate(encoder: nn.Module, splits: Splits, config: Config, work: Work | None = None) -> Measured:
    """Top-1 accuracy in percent of the held-out split, and where there are folds their mean and standard deviation.

    CannotMeasure for images, for clips of one recording on both sides, and for batches that the clips do not fill.
    Stopped when `work` asks to stop. ValueError when the tuned encoder diverges.
    """
    pool = ClipPool.open(splits)
    divisions = pool.divisions()
    fewest = min(len(division.learned) for division in divisions)
    if config.tuned_epochs and (fewest < config.batch or config.batch % distributed.world_size()):
        allowed = f"up to the {fewest} clips that are learned from, and a multiple of {distributed.world_size()} ranks"
        raise CannotMeasure(f"batch is {config.batch}, allowed: {allowed}")
    tuning = _Tuning(encoder, splits, config, pool, divisions)
    if config.tuned_epochs:
        tuning.run(work or Work())
    correct = {LINEAR: _linear(encoder, splits, config, pool, divisions)}
    correct |= {TUNED: tuning.correct} if config.tuned_epochs else {}
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    for how, counts in correct.items():
        percent = [100 * count / len(division.measured) for count, division in zip(counts, divisions, strict=True)]
        metrics[f"top1_{how}_{HELD_OUT}"] = percent[0]
        if folds := [value for value, division in zip(percent, divisions, strict=True) if division.part == ALL_FOLDS]:
            metrics[f"top1_{how}_{ALL_FOLDS}"] = float(np.mean(folds))
            metrics[f"top1_{how}_{ALL_FOLDS}_std"] = float(np.std(folds, ddof=1))
            details[how] = {"folds": np.unique(pool.numbers("fold")).tolist(), "top1": folds}
    return Measured(metrics, details)


def _linear(encoder: nn.Module, splits: Splits, config: Config, pool: ClipPool, divisions: list[Division]) -> list[int]:
    """Clips that the linear classifier gets right, of each division; the ranks share the divisions."""
    values = torch.cat([splits.features(encoder, split).all_rows(splits.device) for split in ("train", "val")])
    rows = values.double().cpu().numpy()
    correct = torch.zeros(len(divisions), dtype=torch.int64)
    for number, division in enumerate(divisions):
        if number % distributed.world_size() == distributed.rank():
            known = rows[division.learned]
            mean, std = known.mean(0), known.std(0)
            std = np.where(std <= 1e-6 * np.abs(mean), 1.0, std)  # of a feature that never changes
            truth = pool.labels[division.measured]
            predicted = fit_and_predict(
                (known - mean) / std,
                pool.labels[division.learned],
                (rows[division.measured] - mean) / std,
                config.inverse_regularisation,
                config.max_iterations,
            )
            correct[number] = int((predicted == truth).sum())
        splits.heard()
    counts: list[int] = distributed.sum_over_ranks(correct.to(splits.device)).tolist()
    return counts


class _Tuning:
    """The encoder tuned with a linear layer, division after division, and how far that is."""

    def __init__(
        self, encoder: nn.Module, splits: Splits, config: Config, pool: ClipPool, divisions: list[Division]
    ) -> None:
        self._encoder, self._splits, self._config = encoder, splits, config
        self._pool, self._divisions = pool, divisions
        self._model: nn.Module = nn.Identity()
        self._step = 0
        self.correct: list[int] = []
        """Clips that are right, of each division that is done."""

    def run(self, work: Work) -> None:
        """All divisions, from the state that `work` has."""
        steps = [self._config.tuned_epochs * self._per_epoch(division) for division in self._divisions]
        before = work.load()
        self.correct = list(before["correct"]) if before else []
        for number, division in list(enumerate(self._divisions))[len(self.correct) :]:
            self._begin()
            if before:
                self._model.load_state_dict(before["model"])
                self._optimizer.load_state_dict(before["optimizer"])
                self._step, before = int(before["step"]), None
            while self._step < steps[number]:
                self._learn(division)
                self._step += 1
                work.beat(sum(steps[:number]) + self._step, sum(steps))
                work.save_if_due(sum(steps[:number]) + self._step, self._state)
                if self._step < steps[number]:
                    work.leave_if_asked(sum(steps[:number]) + self._step, self._state)
            self.correct.append(self._count(division))
            log.info("sound: tuned %d of %d, %s", number + 1, len(self._divisions), self._said(number))

    def _per_epoch(self, division: Division) -> int:
        return len(division.learned) // self._config.batch

    def _begin(self) -> None:
        config, splits = self._config, self._splits
        classifier = Classifier(self._encoder, splits.num_classes, config.seed).to(splits.device).train()
        synchronise(classifier, splits.device)
        self._model, self._step = classifier, 0
        rates = ((classifier.encoder, config.lr_encoder), (classifier.head, config.lr_head))
        groups = [{"params": part.parameters(), "base_lr": rate} for part, rate in rates]
        self._optimizer = torch.optim.SGD(groups, config.lr_head, config.momentum, weight_decay=config.weight_decay)
        for parameter in classifier.parameters():
            parameter.requires_grad_(True)
        self._gradients = GradientSum(classifier)

    def _learn(self, division: Division) -> None:
        """One step on this rank's part of a global batch."""
        config, device = self._config, self._splits.device
        epoch, number = divmod(self._step, self._per_epoch(division))
        for group in self._optimizer.param_groups:
            group["lr"] = epoch_rate(epoch, config.tuned_epochs) * group["base_lr"]
        order = epoch_order(len(division.learned), config.seed, epoch)
        places = rank_batch(order, number, config.batch, distributed.rank(), distributed.world_size())
        clips = division.learned[places]
        sound = self._splits.normalise(self._crops(clips, epoch))
        torch.manual_seed((config.seed * 1_000_003 + self._step) * 65_537 + distributed.rank())  # dropout
        self._gradients.clear()
        labels = torch.from_numpy(self._pool.labels[clips]).to(device)
        loss = F.cross_entropy(self._model(sound), labels, reduction="sum") / config.batch
        loss.backward()
        self._gradients.finish()
        self._optimizer.step()
        total = float(distributed.sum_over_ranks(loss.detach()))
        rates = (config.lr_encoder, config.lr_head)
        require(math.isfinite(total), "lr_encoder, lr_head", rates, f"smaller rates: it diverged in epoch {epoch + 1}")

    def _crops(self, clips: NDArray[np.int64], epoch: int) -> Tensor:
        view, length = SoundViewConfig(crop=self._config.crop), self._pool.clip_samples
        kept = length - round(length * view.crop)
        plan = SoundPlan.draw(view, Key(self._config.seed, epoch, clips, 0), length, kept)
        return self._pool.read(clips, plan.starts, kept)

    @torch.no_grad()
    def _count(self, division: Division) -> int:
        """Whole clips that are right; every one counts once."""
        self._model.eval()
        own = division.measured[distributed.rank() :: distributed.world_size()]
        correct = torch.zeros((), dtype=torch.int64, device=self._splits.device)
        for begin in range(0, len(own), self._splits.batch):
            clips = own[begin : begin + self._splits.batch]
            whole = self._pool.read(clips, np.zeros_like(clips), self._pool.clip_samples)
            scores = self._model(self._splits.normalise(whole))
            correct += (scores.argmax(1).cpu() == torch.from_numpy(self._pool.labels[clips])).sum().to(correct.device)
            self._splits.heard()
        return int(distributed.sum_over_ranks(correct))

    def _state(self) -> dict[str, Any]:
        model, optimizer = self._model.state_dict(), self._optimizer.state_dict()
        return {"step": self._step, "model": model, "optimizer": optimizer, "correct": self.correct}

    def _said(self, number: int) -> str:
        return f"top-1 {100 * self.correct[number] / len(self._divisions[number].measured):.1f} %"
