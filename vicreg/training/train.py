"""The training loop: order, augmentation, loss, sum of gradients, step; and what lets a run stop and go on anywhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, nullcontext
from enum import Enum
from pathlib import Path

import torch
from rich.console import Console

from vicreg import checkpoint, kernels, methods
from vicreg.config import PretrainConfig
from vicreg.config_json import differing_fields, to_json
from vicreg.cost.fitting import cure
from vicreg.cost.loss_form import with_cheapest_form
from vicreg.data.loaders import Batch, Chosen, open_views
from vicreg.data.vocabulary import known_words
from vicreg.exchange.encoder_file import save_encoder
from vicreg.exchange.given_weights import beginning_of
from vicreg.losses.forms import known_speeds
from vicreg.method import UNKNOWN_DATA, Progress, TrainingData
from vicreg.one_branch import branch
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.run_files import encoder_path
from vicreg.training.captured_step import Epochs, how_to_step
from vicreg.training.clock import Clock
from vicreg.training.early_end import EarlyEnd
from vicreg.training.guards import TrainingDiverged
from vicreg.training.learner import Learner
from vicreg.training.metrics import Metrics
from vicreg.training.online_probe import OnlineProbe
from vicreg.training.oversight import Oversight
from vicreg.training.saver import Saver
from vicreg.training.trial import with_fastest_form

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


class GpuFull(RuntimeError):
    """A step needs more memory than the GPU has; the message says what fits."""


class Outcome(Enum):
    """How a call of `train` ended."""

    FINISHED = "finished"
    STOPPED = "stopped"


def train(
    config: PretrainConfig,
    run: Path,
    placement: Placement,
    oversight: Oversight | Callable[[int], bool],
    console: Console,
    train_beton: str = "",
) -> Outcome:
    """Train up to the configured number of epochs, from the run folder's newest checkpoint if there is one.

    Call it on every rank, inside `rendezvous.connected`. `oversight`, or its `should_stop` alone, is told the number
    of steps done; when it says stop on any rank, all save and leave together at the next step boundary. `train_beton`
    is another place of the same training data, such as a copy on the node's own disk. Afterwards the run folder holds
    checkpoints, metrics.jsonl and, when finished, encoder.pt. Raises ValueError for a configuration that cannot run
    here or differs from the checkpoint's. Where the gradients stay non-finite it goes back to the last checkpoint and
    on with the data behind; TrainingDiverged when that happens more than `max_rollbacks` times.
    """
    _require_divisible(config.train.global_batch, placement.world_size)
    oversight = oversight if isinstance(oversight, Oversight) else Oversight(oversight)
    position: int | None = None
    for rollbacks in range(config.train.max_rollbacks + 1):
        try:
            return _train(config, run, placement, oversight, console, train_beton, position)
        except torch.OutOfMemoryError as error:
            raise GpuFull(_say_what_fits(config, placement, error)) from error
        except TrainingDiverged as error:
            if error.position is None:
                raise
            if rollbacks == config.train.max_rollbacks:
                raise TrainingDiverged(f"{error} (it has gone back {rollbacks} times)") from error
            log.warning("%s; going back to the last checkpoint, and on with the data behind these", error)
            position = error.position + 1
    raise AssertionError("the loop returns or raises")


def _say_what_fits(config: PretrainConfig, placement: Placement, error: torch.OutOfMemoryError) -> str:
    memory_bytes = torch.cuda.get_device_properties(distributed.device_for(placement)).total_memory
    fits = cure(config, placement.world_size, memory_bytes, on_gpu=True, data=UNKNOWN_DATA)
    rows = config.train.global_batch // placement.world_size
    return f"{rows} images on each GPU of {memory_bytes / 1e9:.0f} GB are too many; allowed: {fits} ({error})"


def _train(
    config: PretrainConfig,
    run: Path,
    placement: Placement,
    oversight: Oversight,
    console: Console,
    train_beton: str,
    position: int | None,
) -> Outcome:
    """From the newest checkpoint, with the data from batch `position` of all epochs on if it is given."""
    device = distributed.device_for(placement)
    choose_algorithms(config.train.deterministic)
    workers = config.data.workers or placement.num_threads
    train_path = Path(train_beton or config.data.train)
    loader = open_views(
        config.data,
        train_path,
        config.views,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        rank=placement.rank,
        world_size=placement.world_size,
        device=device,
        workers=workers,
        others=config.other_kinds,
    )
    steps_per_epoch, num_steps = loader.num_batches, loader.num_batches * config.train.epochs
    probe = OnlineProbe(config, device, workers, steps_per_epoch)
    words = known_words(train_path, config.model.min_word_count) if "text" in config.other_kinds else ()
    data = TrainingData(loader.num_samples, loader.num_classes, words)
    beginning = beginning_of(run) if config.model.weights else None
    form = with_fastest_form(_with_form(config, placement, device), run, device, data, num_steps, oversight)
    learner = Learner.build(form, device, data, beginning)
    leads = placement.rank == 0
    if form.train.compile and leads:
        kept = os.environ.get(kernels.COMPILED_VARIABLE, "torch's own folder")
        console.print(f"compiling: the first step takes longer, a minute or two where {kept} has nothing of it yet")
    if leads:
        oversight.require_owner()
    step, offset = _resume(learner, run, config)
    if position is not None:
        offset = position - step
    saver = Saver(run / CHECKPOINTS, learner, config, steps_per_epoch, leads, offset, oversight)
    clock = Clock(config, data, step, placement, device)
    learner.view_events = clock.view_events
    epochs, take = how_to_step(learner, loader)
    metrics = _metrics(config, run, step, num_steps, steps_per_epoch, console) if leads else None
    early_end = EarlyEnd(config.online, run, steps_per_epoch, oversight)
    # A run that was killed between a checkpoint and what follows from its measurement measures again.
    measured: dict[str, float] = {}
    if step and early_end.asks:
        with oversight.phase("a measurement"):
            measured = probe.measure_if_due(step, learner)
    stopped, ended = False, early_end.is_due(step, measured)
    with ExitStack() as stack:
        stack.callback(loader.close)
        stack.callback(saver.wait)
        if metrics:
            stack.callback(metrics.close)
        end = step if ended else num_steps
        stream = _stream(epochs, loader.num_batches, step + offset, end + offset)
        batches = stack.enter_context(closing(stream))
        for batch in clock.timed(batches):
            progress = Progress(step, num_steps, steps_per_epoch)
            is_due = step % config.train.log_every_steps == 0 or step + 1 == num_steps
            try:
                terms = take(batch, progress, placement.rank)
                learner.count_stand_ins(loader.num_stand_ins(batch))
                if is_due:  # a GPU is asked now and then, on all ranks at the same step
                    learner.guard.check(step, terms)
            except TrainingDiverged as error:
                error.position = step + offset
                raise
            with clock.stopped(), oversight.phase("a measurement") if probe.is_due(step + 1) else nullcontext():
                measured = probe.measure_if_due(step + 1, learner)
            compared = clock.compare(clock.views_s) if is_due else {}
            if metrics and (is_due or measured):
                oversight.require_owner()
                values = learner.report(step, terms) | measured
                metrics.log(step, learner.rate(progress), values, clock.lap(step) | compared)
            if metrics:
                metrics.advance(step)
            step += 1
            saver.save_if_due(step, measured)
            wants_to_stop = oversight.should_stop(step)
            if early_end.is_due(step, measured):
                break
            if step % config.train.stop_check_every_steps == 0 and distributed.any_rank(wants_to_stop):
                stopped = step < num_steps
                break
    with oversight.phase("the end"):
        saver.finish(step, measured)
        if leads and not stopped:
            oversight.require_owner()
            _save_encoders(run, learner, config, step)
        distributed.barrier()
    return Outcome.STOPPED if stopped else Outcome.FINISHED


def _save_encoders(run: Path, learner: Learner, config: PretrainConfig, step: int) -> None:
    origin = {"config": to_json(config), "step": step}
    for number, (name, encoder) in reversed(list(enumerate(learner.method.encoders.items()))):
        path = encoder_path(run, name if number else "")  # of the first, which says "finished", at last
        save_encoder(path, encoder, branch(config.model, name if number else ""), origin)


def _stream(epochs: Epochs, num_batches: int, position: int, end: int) -> Generator[Batch | Chosen, None, None]:
    """The batches from `position` to before `end`, epoch after epoch; the last epoch may go on behind."""
    while position < end:
        epoch, first_batch = divmod(position, num_batches)
        with closing(epochs(epoch, first_batch)) as batches:
            for batch in batches:
                yield batch
                position += 1
                if position == end:
                    return


def _metrics(
    config: PretrainConfig, run: Path, step: int, num_steps: int, steps_per_epoch: int, console: Console
) -> Metrics:
    terms = methods.load(config.method.name).TERMS
    return Metrics(run, step, num_steps, steps_per_epoch, console, terms, config.train.wandb_project)


def _with_form(config: PretrainConfig, placement: Placement, device: torch.device) -> PretrainConfig:
    """The configuration with the form of the loss that is cheapest here, where it leaves the choice open."""
    speeds = known_speeds(
        device.type,
        placement.local_size == placement.world_size,
        link_gb_s=placement.link_gb_s,
        latency_us=placement.latency_us,
    )
    return with_cheapest_form(config, placement.world_size, speeds)


def _resume(learner: Learner, run: Path, config: PretrainConfig) -> tuple[int, int]:
    """The step to go on with, that of the newest valid checkpoint, which is loaded, or 0; and the data's offset."""
    state, damaged = checkpoint.find_newest(run / CHECKPOINTS)
    step = int(state["step"]) if state else 0
    if distributed.any_rank(step != distributed.from_rank_0(step)):
        raise ValueError(f"the ranks do not see the same checkpoints in {run / CHECKPOINTS}; is the folder shared?")
    if damaged and distributed.rank() == 0:  # all have read what they read
        checkpoint.set_aside(damaged)
    if state is None:
        return 0, 0
    there = methods.read_config(state["config"], state.get("schema", 1))
    changed = differing_fields(to_json(there), to_json(config))
    if changed:
        raise ValueError(
            f"{run} was started with another configuration; go on with the same, or choose another run folder:\n  "
            + "\n  ".join(changed)
        )
    learner.load(state)
    log.info("resuming %s at step %d", run, step)
    return step, int(state.get("data_offset", 0))


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
