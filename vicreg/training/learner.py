"""One training step: two views, the method's loss, the sum of gradients over the ranks, the optimizer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vicreg.config import OptimizerConfig, PretrainConfig
from vicreg.data.loaders import Batch
from vicreg.joint_views import separate_statistics
from vicreg.methods.vicreg import Vicreg
from vicreg.model import num_features
from vicreg.optim.lars import Lars
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise
from vicreg.training.guards import StepGuard
from vicreg.training.online_head import OnlineHead
from vicreg.views.augment import augment

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Learner:
    """The method with its optimizer, and one training step of them."""

    config: PretrainConfig
    device: torch.device
    method: Vicreg
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    gradients: GradientSum
    guard: StepGuard
    dtype: torch.dtype
    online: OnlineHead | None
    """What learns beside the method, where the configuration measures online."""

    @classmethod
    def build(cls, config: PretrainConfig, device: torch.device, num_classes: int = 0) -> Learner:
        """Method with weights that depend on the seed alone, and a fresh optimizer; a head for that many classes."""
        dtype = _dtype(config.train.precision, device)
        torch.manual_seed(config.train.seed)
        method = Vicreg(config.model, config.loss, config.train.joint_views).to(
            torch.float64 if dtype == torch.float64 else torch.float32
        )
        method.to(device)
        if config.train.channels_last:
            method.to(memory_format=torch.channels_last)
        synchronise(method, device)
        if config.train.joint_views:
            separate_statistics(method, 2)
        if config.train.compile:
            method.encoder.compile()
            method.expander.compile()
        return cls(
            config=config,
            device=device,
            method=method.train(),
            optimizer=_optimizer(config.optimizer, method),
            scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            gradients=GradientSum(method),
            guard=StepGuard(config.train.max_skipped_steps, device),
            dtype=dtype,
            online=_online_head(config, method, num_classes) if config.online.every_epochs else None,
        )

    def step(self, batch: Batch, step: int, rate: float, rank: int) -> dict[str, Tensor]:
        """One step on this rank's part of a global batch; returns the loss terms of the whole of it."""
        torch.manual_seed(_step_seed(self.config.train.seed, step, rank))  # dropout, stochastic depth
        batch = batch.to(self.device)
        view_a, view_b = (self._prepare(batch, view) for view in range(2))
        return self.learn(view_a, view_b, batch.labels, step, rate)

    def learn(self, view_a: Tensor, view_b: Tensor, labels: Tensor, step: int, rate: float) -> dict[str, Tensor]:
        """A step on views that are ready for the model."""
        self.gradients.clear()
        half = self.dtype in (torch.float16, torch.bfloat16)
        with torch.autocast(self.device.type, self.dtype if half else torch.float16, enabled=half):
            terms = self.method(view_a, view_b)
        features = terms.pop("features")
        self.scaler.scale(terms["loss"]).backward()
        self.gradients.finish()
        self.scaler.unscale_(self.optimizer)
        optimizers = [self.optimizer]
        if self.online:
            self.online.learn(features, labels, rate * self.config.online.lr / self.config.optimizer.base_lr)
            optimizers.append(self.online.optimizer)
        finite = self.guard.accept([p.grad for p in self.gradients.parameters if p.grad is not None])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.device.type == "cuda" and not self.scaler.is_enabled():
            for optimizer in optimizers:
                # torch's fused optimizers look for this name; their stubs do not have it.
                optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
                optimizer.step()
        else:
            self.guard.check(step, terms)
            if finite:
                self.scaler.step(self.optimizer)
                for optimizer in optimizers[1:]:
                    optimizer.step()
            self.scaler.update()
        return {name: value.detach() for name, value in terms.items()}

    def report(self, step: int, terms: dict[str, Tensor]) -> dict[str, float]:
        """The terms as numbers, with the steps skipped so far; warns when the embeddings have collapsed."""
        self.guard.check(step, terms)
        values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        self.guard.watch_collapse(step, values["embedding_std"])
        return values | {"skipped_steps": self.guard.skipped}

    def _prepare(self, batch: Batch, view: int) -> Tensor:
        images = augment(batch.views[view], batch.colour[view], self.config.data.mean, self.config.data.std)
        if self.config.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images.double() if self.dtype == torch.float64 else images

    def state(self) -> dict[str, Any]:
        """Everything that a step depends on, but for the position."""
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped_steps": self.guard.skipped,
            "online": self.online.state() if self.online else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state; names and shapes must fit exactly."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.guard.skipped = state["skipped_steps"]
        if self.online:
            self.online.load(state["online"])


def _online_head(config: PretrainConfig, method: Vicreg, num_classes: int) -> OnlineHead:
    weight = next(method.expander.parameters())
    head = nn.Linear(num_features(method.encoder), num_classes)
    head.to(weight.device, weight.dtype)
    return OnlineHead(head, _optimizer(dataclasses.replace(config.optimizer, weight_decay=0.0), head))


def _optimizer(settings: OptimizerConfig, method: nn.Module) -> torch.optim.Optimizer:
    if settings.name == "lars":
        return Lars(
            method.parameters(),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            trust_coefficient=settings.trust_coefficient,
            clip_lr=settings.clip_lr,
        )
    groups = [
        {"params": [p for p in method.parameters() if p.ndim != 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in method.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    on_gpu = next(method.parameters()).device.type == "cuda"
    return torch.optim.AdamW(groups, lr=settings.base_lr, fused=on_gpu)  # which leaves out steps by `found_inf`


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if device.type == "cpu" and precision in ("bf16", "fp16"):
        raise ValueError(f"precision is {precision!r}, allowed on a CPU: auto, float32, float64")
    return _DTYPES[precision]


def _step_seed(seed: int, step: int, rank: int) -> int:
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
