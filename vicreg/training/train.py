"""The training loop: order, augmentation, loss, sum of gradients, step; and what lets a run stop and go on anywhere."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from vicreg import checkpoint
from vicreg.config import PretrainConfig
from vicreg.config_json import differing_fields, to_json
from vicreg.cost.flops import peak_flops, step_flops
from vicreg.data.loaders import Batch, ViewLoader, open_views
from vicreg.exchange.encoder_file import ENCODER_FILE, save_encoder
from vicreg.losses.forms import cheapest_form, known_speeds
from vicreg.optim.schedule import learning_rate, peak_lr
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.training.learner import Learner
from vicreg.training.metrics import Metrics
from vicreg.training.online_probe import OnlineProbe
from vicreg.training.saver import Saver

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


class Outcome(Enum):
    """How a call of `train` ended."""

    FINISHED = "finished"
    STOPPED = "stopped"


def train(
    config: PretrainConfig,
    run: Path,
    placement: Placement,
    should_stop: Callable[[int], bool],
    console: Console,
    train_beton: str = "",
) -> Outcome:
    """Train up to the configured number of epochs, from the run folder's newest checkpoint if there is one.

    Call it on every rank, inside `distributed.connected`. `should_stop` is told the number of steps done after each of
    them; when it turns true on any rank, all save and leave together at the next step boundary. `train_beton` is
    another place of the same training data, such as a copy on the node's own disk. Afterwards the run folder holds
    checkpoints, metrics.jsonl and, when finished, encoder.pt. Raises ValueError for a configuration that cannot run
    here or differs from the checkpoint's, and TrainingDiverged when the gradients stay non-finite.
    """
    _require_divisible(config.train.global_batch, placement.world_size)
    device = distributed.device_for(placement)
    choose_algorithms(config.train.deterministic)
    workers = config.data.workers or placement.num_threads
    loader = open_views(
        config.data,
        Path(train_beton or config.data.train),
        config.views,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        rank=placement.rank,
        world_size=placement.world_size,
        device=device,
        workers=workers,
    )
    steps_per_epoch, num_steps = loader.num_batches, loader.num_batches * config.train.epochs
    probe = OnlineProbe(config, device, workers, steps_per_epoch)
    learner = Learner.build(_with_form(config, placement, device), device, probe.num_classes)
    step = _resume(learner, run, config)
    leads = placement.rank == 0
    saver = Saver(run / CHECKPOINTS, learner, config, steps_per_epoch, leads)
    clock = _Clock(config, step, placement, device)
    metrics = Metrics(run, step, num_steps, steps_per_epoch, console, config.train.wandb_project) if leads else None
    stopped = False
    with ExitStack() as stack:
        stack.callback(loader.close)
        stack.callback(saver.wait)
        if metrics:
            stack.callback(metrics.close)
        batches = stack.enter_context(closing(_stream(loader, step, num_steps)))
        for batch in clock.timed(batches):
            rate = _learning_rate(config, step, num_steps, steps_per_epoch)
            terms = learner.step(batch, step, rate, placement.rank)
            with clock.stopped():
                measured = probe.measure_if_due(step + 1, learner)
            if metrics and (step % config.train.log_every_steps == 0 or step + 1 == num_steps or measured):
                metrics.log(step, rate, learner.report(step, terms) | measured, clock.lap(step))
            if metrics:
                metrics.advance(step)
            step += 1
            saver.save_if_due(step)
            wants_to_stop = should_stop(step)
            if step % config.train.stop_check_every_steps == 0 and distributed.any_rank(wants_to_stop):
                stopped = step < num_steps
                break
    saver.finish(step)
    if leads and not stopped:
        save_encoder(
            run / ENCODER_FILE, learner.method.encoder, config.model, {"config": to_json(config), "step": step}
        )
    distributed.barrier()
    return Outcome.STOPPED if stopped else Outcome.FINISHED


def _stream(loader: ViewLoader, step: int, num_steps: int) -> Generator[Batch, None, None]:
    """The batches of all steps from `step` on, epoch after epoch."""
    while step < num_steps:
        epoch, first_batch = divmod(step, loader.num_batches)
        with closing(loader.batches(epoch, first_batch)) as batches:
            for batch in batches:
                yield batch
                step += 1


class _Clock:
    """Speed, waiting for data, and how long steps take, from lap to lap."""

    def __init__(self, config: PretrainConfig, step: int, placement: Placement, device: torch.device) -> None:
        self._global_batch = config.train.global_batch
        self._flops = step_flops(config, config.train.global_batch // placement.world_size)
        self._peak = peak_flops(device, config.train.precision)
        self._start, self._step, self._waited_s = time.monotonic(), step, 0.0
        self._steps_s: list[float] = []
        self._stopped_s = 0.0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens meanwhile does not count."""
        start = time.monotonic()
        yield
        self._stopped_s += time.monotonic() - start

    def timed(self, batches: Iterator[Batch]) -> Generator[Batch, None, None]:
        """The same batches, with the time that each took to come and to be worked on."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self._waited_s += time.monotonic() - start
            if batch is None:
                return
            self._stopped_s = 0.0
            yield batch
            self._steps_s.append(time.monotonic() - start - self._stopped_s)

    def lap(self, step: int) -> dict[str, float]:
        """Timing of the steps up to and including `step` since the lap before; the last step is still under way."""
        now = time.monotonic()
        seconds, steps = now - self._start - self._stopped_s, step + 1 - self._step
        timing = {
            "images_per_s": round(steps * self._global_batch / seconds, 1),
            "data_wait_share": round(self._waited_s / seconds, 4),
            "model_tflops": round(self._flops * steps / seconds / 1e12, 4),
        }
        if self._peak:
            timing["mfu"] = round(self._flops * steps / seconds / self._peak, 4)
        if self._steps_s:
            for percent in (50, 95):
                timing[f"step_ms_p{percent}"] = round(1000 * float(np.percentile(self._steps_s, percent)), 2)
        self._start, self._step, self._waited_s = now, step + 1, 0.0
        self._steps_s.clear()
        return timing


def _with_form(config: PretrainConfig, placement: Placement, device: torch.device) -> PretrainConfig:
    """The configuration with the form of the loss that is cheapest here, where it leaves the choice open."""
    if config.loss.form != "auto":
        return config
    speeds = known_speeds(
        device.type,
        placement.local_size == placement.world_size,
        link_gb_s=placement.link_gb_s,
        latency_us=placement.latency_us,
    )
    dims = int(config.model.expander.split("-")[-1])
    form = cheapest_form(config.train.global_batch, dims, placement.world_size, speeds)
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, form=form))


def _resume(learner: Learner, run: Path, config: PretrainConfig) -> int:
    """The step to go on with: that of the newest valid checkpoint, which is loaded, or 0."""
    state = checkpoint.load_newest(run / CHECKPOINTS)
    step = int(state["step"]) if state else 0
    if distributed.any_rank(step != distributed.from_rank_0(step)):
        raise ValueError(f"the ranks do not see the same checkpoints in {run / CHECKPOINTS}; is the folder shared?")
    if state is None:
        return 0
    changed = differing_fields(state["config"], to_json(config))
    if changed:
        raise ValueError(
            f"{run} was started with another configuration; go on with the same, or choose another run folder:\n  "
            + "\n  ".join(changed)
        )
    learner.load(state)
    log.info("resuming %s at step %d", run, step)
    return step


def _learning_rate(config: PretrainConfig, step: int, num_steps: int, steps_per_epoch: int) -> float:
    optimizer = config.optimizer
    scaled = optimizer.name == "lars"
    peak = peak_lr(optimizer.base_lr, config.train.global_batch) if scaled else optimizer.base_lr
    warmup_steps = round(optimizer.warmup_epochs * steps_per_epoch)
    return learning_rate(step, num_steps, warmup_steps, peak, optimizer.final_lr_ratio)


def choose_algorithms(deterministic: bool) -> None:
    """cuDNN picks the fastest convolution, or a reproducible one; CPU kernels always are."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _require_divisible(global_batch: int, world_size: int) -> None:
    if global_batch % world_size:
        fits = [n for n in range(1, global_batch + 1) if global_batch % n == 0 and n <= 2 * world_size]
        raise ValueError(
            f"global_batch is {global_batch}, which {world_size} ranks cannot share equally; "
            f"allowed here: a multiple of {world_size}, or a number of ranks from {fits}"
        )
