"""Checkpoints that training does not wait for: the state is copied between two steps, and written by a thread.

Stands apart from `checkpoint.py`, which says what a checkpoint on disk is. The copy is that of a step's end, whatever
the weights do afterwards. One checkpoint is written at a time: one that comes due before the last is on disk waits for
it, so that checkpoints are of the steps that were asked for.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Thread, get_native_id
from typing import Any

import torch
from torch import Tensor

from vicreg import checkpoint
from vicreg.config import PretrainConfig
from vicreg.config_json import to_json
from vicreg.schema import SCHEMA
from vicreg.training.guards import TrainingDiverged
from vicreg.training.learner import Learner
from vicreg.training.oversight import Oversight

log = logging.getLogger(__name__)

UNMEASURED: Mapping[str, float] = {}
LOWEST_PRIORITY = 19
"""Of the thread that writes: checksums must not take a core from training (setpriority, man 2)."""


class Saver:
    """Saves on rank 0, by step and by time; all other ranks hold the same state and need not wait."""

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        config: PretrainConfig,
        steps_per_epoch: int,
        leads: bool,
        data_offset: int = 0,
        oversight: Oversight | None = None,
    ) -> None:
        """data_offset: batches that were left behind by going back, for the position in the data.

        oversight: asked whether the folder is this attempt's, and told where training waits for a checkpoint.
        """
        self._oversight = oversight or Oversight()
        self._folder, self._learner, self._config, self._leads = folder, learner, config, leads
        self._every_steps = config.train.checkpoint_every_steps or steps_per_epoch
        self._data_offset = data_offset
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._buffers: dict[str, Tensor] = {}
        self._thread: Thread | None = None
        self._failure: Exception | None = None

    def save_if_due(self, step: int, measured: Mapping[str, float] = UNMEASURED) -> None:
        """Begin to save the state after `step` steps if it is time to; raises OSError when the last one failed.

        `measured`: what the state is worth, where that is known; if it is the best so far and to be kept, it is time.
        None is taken while steps are being left out: the last good one stays the newest.
        """
        self._raise_failure()
        minutes = (time.monotonic() - self._saved_at) / 60
        due = step % self._every_steps == 0 or minutes >= self._config.train.checkpoint_every_min
        due = due or self._is_best(measured)
        if due and self._leads and not self._learner.guard.in_a_row:
            self._begin(step, measured)

    def _is_best(self, measured: Mapping[str, float]) -> bool:
        by = self._config.online.keep_best
        if not (self._leads and by in measured):
            return False
        self.wait()  # the best so far may be the one that is being written
        return measured[by] > checkpoint.find_best(self._folder, by)[1]

    def finish(self, step: int, measured: Mapping[str, float] = UNMEASURED) -> None:
        """Return when the state after `step` steps is on disk; raises OSError when it, or the last one, failed."""
        self.wait()
        self._raise_failure()
        self._begin(step, measured)
        self.wait()
        self._raise_failure()

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _begin(self, step: int, measured: Mapping[str, float]) -> None:
        if not self._leads or step == self._saved_step:
            return
        if self._thread is not None and self._thread.is_alive():
            with self._oversight.phase("a checkpoint"):
                self.wait()
        self.wait()
        state = self._learner.state() | {
            "schema": SCHEMA,
            "step": step,
            "data_offset": self._data_offset,
            "config": to_json(self._config),
        }
        copied = _copied(state, self._buffers)
        done = torch.cuda.Event() if self._learner.device.type == "cuda" else None
        if done is not None:
            done.record()
        self._thread = Thread(target=self._write, args=(step, copied, done, measured), name="vicreg-checkpoint")
        self._thread.start()
        self._saved_step, self._saved_at = step, time.monotonic()

    def _write(
        self, step: int, state: dict[str, Any], copied: torch.cuda.Event | None, measured: Mapping[str, float]
    ) -> None:
        if hasattr(os, "sched_getaffinity"):  # on Linux a thread may be the only one to step back
            os.setpriority(os.PRIO_PROCESS, get_native_id(), LOWEST_PRIORITY)
        if copied is not None:
            copied.synchronize()
        try:
            keep, best = self._config.train.keep_checkpoints, self._config.online.keep_best
            checkpoint.save(self._folder, step, state, keep, self._oversight.require_owner, measured, best)
        except Exception as error:  # torch says RuntimeError where a file cannot grow
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._oversight.require_owner()  # if the folder is another's, that is the reason
        if isinstance(self._failure, ValueError):
            raise TrainingDiverged(f"the checkpoint of step {self._saved_step}: {self._failure}") from self._failure
        if self._failure is not None:
            raise OSError(
                f"the checkpoint of step {self._saved_step} could not be written to {self._folder} ({self._failure}); "
                "mend the place, then start the run again: it goes on from the checkpoint before"
            ) from self._failure


def _copied(value: Any, buffers: dict[str, Tensor], name: str = "") -> Any:
    """A state with all tensors copied to the host, into the buffers of the last time; copies of a GPU's may go on."""
    if isinstance(value, dict):
        return {key: _copied(entry, buffers, f"{name}/{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(entry, buffers, f"{name}/{number}") for number, entry in enumerate(value))
    if not isinstance(value, Tensor):
        return value
    buffer = buffers.get(name)
    if buffer is None or buffer.shape != value.shape or buffer.stride() != value.stride():
        on_gpu = value.device.type == "cuda"
        buffer = buffers[name] = torch.empty_like(value, device="cpu", requires_grad=False, pin_memory=on_gpu)
    return buffer.copy_(value.detach(), non_blocking=True)
