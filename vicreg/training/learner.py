"""One training step: views, the method's loss, the sum of gradients over the ranks, the optimizer, what follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vicreg import kernels, methods, networks
from vicreg.config import PretrainConfig, require
from vicreg.data.batches import Batch
from vicreg.data.other_views import ready
from vicreg.half_precision import autocast, dtype_of
from vicreg.joint_views import separate_statistics
from vicreg.method import UNKNOWN_DATA, Inputs, Method, Progress, TrainingData
from vicreg.model import Beginning, begins_with, num_features
from vicreg.optim.optimizers import build_optimizer, load_state, peak_rate, rate_at, resting, set_rates
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise
from vicreg.sound_config import takes
from vicreg.training.guards import StepGuard
from vicreg.training.micro_batches import MicroBatches
from vicreg.training.online_head import OnlineHead, head_rate
from vicreg.training.running_statistics import RunningStatistics
from vicreg.views.augment import augment
from vicreg.views.sound import prepare_sound


@dataclass
class Learner:
    """The method with its optimizer, and one training step of them."""

    config: PretrainConfig
    device: torch.device
    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    gradients: GradientSum
    statistics: RunningStatistics
    guard: StepGuard
    dtype: torch.dtype
    online: OnlineHead | None
    """What learns beside the method, where the configuration measures online."""
    micro_batches: MicroBatches | None
    """Where encoders take less than a rank's batch at a time."""
    stand_ins: int = 0
    """For how many samples that could not be decoded others have stood in, over all steps and ranks."""
    view_events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    """Recorded before and after a step's views are made, where their time on a GPU is to be known."""

    @classmethod
    def build(
        cls,
        config: PretrainConfig,
        device: torch.device,
        data: TrainingData = UNKNOWN_DATA,
        beginning: Beginning | None = None,
    ) -> Learner:
        """Method with weights that depend on the seed alone, or that it begins with, and a fresh optimizer."""
        dtype = _dtype(config.train.precision, device)
        torch.manual_seed(config.train.seed)
        with begins_with(beginning):
            method = networks.build(config, data)
        method.to(torch.float64 if dtype == torch.float64 else torch.float32)
        require(
            method.joins_views or not config.train.joint_views, "joint_views", True, f"False for {config.method.name}"
        )
        method.to(device)
        if config.train.channels_last:
            method.to(memory_format=torch.channels_last)
        synchronise(method, device)
        micro_batch = config.train.micro_batch
        require(
            not (micro_batch and config.train.joint_views),
            "micro_batch",
            micro_batch,
            "0 with joint_views: one of both",
        )
        if config.train.joint_views:
            separate_statistics(method, len(config.each_view))
        if config.train.compile:
            kernels.require_executable_folder()
            for network in method.children():
                # A compiled forward can be called in parts; a compiled module would compile the parts' bookkeeping too.
                if micro_batch and network in method.encoders.values():
                    network.forward = torch.compile(network.forward)
                else:
                    network.compile()
        groups = method.parameter_groups()
        learned = {parameter for group in groups for parameter in group.parameters}
        for parameter in method.parameters():
            parameter.requires_grad_(parameter in learned)
        statistics = RunningStatistics(method)
        return cls(
            config=config,
            device=device,
            method=method.train(),
            optimizer=build_optimizer(config.optimizer, groups),
            scaler=_scaler(device, dtype),
            gradients=GradientSum(method, overlaps=not micro_batch),
            statistics=statistics,
            guard=StepGuard(config.train.max_skipped_steps, device),
            dtype=dtype,
            online=_online_head(method, data.num_classes) if config.online.every_epochs else None,
            micro_batches=MicroBatches(method.encoders.values(), micro_batch, statistics) if micro_batch else None,
        )

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is meant where none is named."""
        return next(iter(self.method.encoders.values()))

    def rate(self, progress: Progress) -> float:
        """The learning rate of a step."""
        return rate_at(
            self.config.optimizer,
            self.config.train.global_batch,
            progress.step,
            progress.num_steps,
            progress.steps_per_epoch,
        )

    def step(self, batch: Batch, progress: Progress, rank: int) -> dict[str, Tensor]:
        """One step on this rank's part of a global batch; returns the loss terms of the whole of it."""
        self.prepare(progress, rank)
        return self.take(batch.to(self.device), progress)

    def prepare(self, progress: Progress, rank: int) -> None:
        """What the host says of a step but for its batch."""
        torch.manual_seed(_step_seed(self.config.train.seed, progress.step, rank))  # dropout, stochastic depth
        self._set_rates(progress)

    def take(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The step that is prepared, on a batch beside the networks: on a GPU nothing of it asks or tells the host."""
        if self.view_events:
            self.view_events[0].record()
        views = self.views(batch)
        if self.view_events:
            self.view_events[1].record()
        return self._learn(Inputs(views, batch.labels, batch.samples), progress)

    def learn(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """A step on views that are ready for the networks."""
        self._set_rates(progress)
        return self._learn(inputs, progress)

    def _set_rates(self, progress: Progress) -> None:
        peak = peak_rate(self.config.optimizer, self.config.train.global_batch)
        set_rates(self.optimizer, self.rate(progress), peak)
        if self.online:
            self.online.set_rate(head_rate(self.config.online.lr, progress.step, progress.num_steps))

    def _learn(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        self.gradients.clear()
        self.statistics.remember()
        if self.micro_batches:
            self.micro_batches.begin()
        with self._autocast():
            terms = self.method(inputs, progress)
        features = terms.pop("features")
        self.scaler.scale(terms["loss"]).backward()
        if self.micro_batches:
            self.micro_batches.finish(self._autocast)
        self.gradients.finish()
        self.scaler.unscale_(self.optimizer)
        if self.online:
            self.online.learn(features, inputs.labels)
        gradients = [parameter.grad for parameter in self.gradients.parameters if parameter.grad is not None]
        taken = self.guard.accept(gradients, self.statistics.floating(), inputs.samples, inputs.views)
        self.statistics.keep_if(taken)
        if self.online:
            self.online.keep_if(taken)
        with resting(self.optimizer, progress.step):
            self._take(taken, progress, terms)
        return {name: value.detach() for name, value in terms.items()}

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.dtype)

    def _take(self, taken: Tensor, progress: Progress, terms: dict[str, Tensor]) -> None:
        """The optimizers' steps, unless the gradients are not finite; a GPU finds that out by itself."""
        optimizers = [self.optimizer, *([self.online.optimizer] if self.online else [])]
        if self.device.type == "cuda":
            for optimizer in optimizers:
                # torch's fused optimizers look for this name; their stubs do not have it.
                optimizer.found_inf = (~taken).float()  # type: ignore[attr-defined]
                optimizer.step()
            self.scaler.update()  # by what `unscale_` has found on the device
        else:
            self.guard.check(progress.step, terms)
            if taken:
                for optimizer in optimizers:
                    optimizer.step()
        with torch.no_grad():
            self.method.after_step(progress, taken)

    def let_optimizers_be_recorded(self, recorded: bool) -> None:
        """Tell those of torch that ask whether a CUDA graph is what their steps are for."""
        for optimizer in (self.optimizer, *([self.online.optimizer] if self.online else [])):
            for group in optimizer.param_groups:
                if "capturable" in group:
                    group["capturable"] = recorded

    def forget_half_a_step(self) -> None:
        """Of a step that was recorded in part and not done nothing is left but what the scaler has noted."""
        state, self.scaler = self.scaler.state_dict(), _scaler(self.device, self.dtype)
        self.scaler.load_state_dict(state)

    def report(self, step: int, terms: dict[str, Tensor]) -> dict[str, float]:
        """The terms as numbers, with the steps skipped so far; warns when the embeddings have collapsed."""
        self.guard.check(step, terms)
        terms = terms | {"gradient_norm": self.guard.gradient_norm.to(terms["loss"])}
        values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        self.guard.watch_collapse(step, values, methods.load(self.config.method.name).TERMS)
        values["skipped_steps"] = self.guard.skipped
        return values | ({"stand_ins": self.stand_ins} if self.config.data.on_bad == "skip" else {})

    def count_stand_ins(self, number: int) -> None:
        """Add those of this rank's part of a batch; all ranks call it together."""
        if self.config.data.on_bad == "skip":
            self.stand_ins += int(distributed.sum_over_ranks(torch.tensor(number)))

    def views(self, batch: Batch) -> list[Tensor]:
        """The views of a batch on this device, ready for the networks."""
        return [*(self._view(batch, view) for view in range(len(batch.views))), *map(ready, batch.others)]

    def _view(self, batch: Batch, view: int) -> Tensor:
        data, model = self.config.data, self.config.model
        if batch.sound:
            kind = takes(model.encoder_b if view and model.encoder_b else model.encoder)
            images = prepare_sound(batch.views[view], batch.sound[view], kind, model.sound, data.std[0])
        else:
            images = augment(batch.views[view], batch.colour[view], data.mean, data.std)
        if images.ndim == 4 and self.config.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images.double() if self.dtype == torch.float64 else images

    def state(self) -> dict[str, Any]:
        """Everything that a step depends on, but for the position."""
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped_steps": self.guard.skipped,
            "skipped_in_a_row": self.guard.in_a_row,
            "stand_ins": self.stand_ins,
            "online": self.online.state() if self.online else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state; names and shapes must fit exactly."""
        self.method.load_state_dict(state["method"])
        load_state(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.guard.go_on_from(state["skipped_steps"], state.get("skipped_in_a_row", 0))
        self.stand_ins = state.get("stand_ins", 0)
        if self.online:
            self.online.load(state["online"])


def _online_head(method: Method, num_classes: int) -> OnlineHead:
    encoder = next(iter(method.encoders.values()))
    return OnlineHead.build(num_features(encoder), num_classes, like=next(method.parameters()))


def _scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if device.type == "cpu" and precision in ("bf16", "fp16"):
        raise ValueError(f"precision is {precision!r}, allowed on a CPU: auto, float32, float64")
    return dtype_of(precision, device)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
