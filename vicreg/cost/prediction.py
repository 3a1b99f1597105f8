"""How long a step will take on any number of ranks, from a few speeds: what --dry-run prints before anything runs.

The model: encoder and expander at a sustained rate of arithmetic; the loss's products at the same rate and its passes
over the embeddings at the speed of memory, then its exchange; the sum of the gradients, hidden on a GPU behind the
backward pass as far as that lasts (two thirds of the arithmetic; a CPU's cores do both in turn); statistics of batch
norm, which every layer waits for; and the optimizer at the speed of memory. Reading data is not in it: a loader that
keeps up costs nothing.
How well it predicts what can be measured: docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.config import PretrainConfig
from vicreg.cost import counted
from vicreg.cost.estimate import Cost, estimate
from vicreg.cost.flops import step_flops
from vicreg.cost.loss_form import form_cost, loss_cost
from vicreg.losses.forms import Speeds
from vicreg.method import UNKNOWN_DATA, TrainingData

BACKWARD_SHARE = 2 / 3
"""Of the model's arithmetic; gradients are sent meanwhile."""
OPTIMIZER_PASSES = {"lars": 7, "adamw": 7, "sgd": 5}
"""Times that a value of each parameter is read or written in a step (norms and update; two momenta)."""
BUCKET_BYTES = 25 * 2**20


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on one rank, one part after another; the sum is the step."""

    model_s: float
    loss_s: float
    gradients_s: float
    """Of the sum over the ranks, what the backward pass does not hide."""
    batch_norm_s: float
    optimizer_s: float
    cost: Cost
    """Memory and traffic of the same rank."""

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.model_s + self.loss_s + self.gradients_s + self.batch_norm_s + self.optimizer_s

    @property
    def communication_s(self) -> float:
        """What the network adds; of the loss's exchange see `loss_s`."""
        return self.gradients_s + self.batch_norm_s


def predict(
    config: PretrainConfig, ranks: int, on_gpu: bool, speeds: Speeds, data: TrainingData = UNKNOWN_DATA
) -> StepTime:
    """A step of `config` on `ranks` ranks; ValueError where they do not divide the batch."""
    cost = estimate(config, ranks, on_gpu, speeds, data)
    rows = config.train.global_batch // ranks
    link, latency_s = speeds.link_gb_s * 1e9, speeds.latency_us * 1e-6 * (ranks - 1).bit_length()
    memory = speeds.memory_gb_s * 1e9
    model_s = step_flops(config, rows, data) / (speeds.tflops * 1e12)
    loss_s = form_cost(config, ranks, speeds).seconds(speeds, ranks) + loss_cost(config, ranks).moved_bytes / memory
    num_buckets = -(-cost.gradients_bytes // BUCKET_BYTES)
    sum_s = cost.gradient_traffic_bytes / link + num_buckets * latency_s if ranks > 1 else 0.0
    hidden_s = min(sum_s - sum_s / num_buckets, BACKWARD_SHARE * model_s) if on_gpu else 0.0
    waits_s = _num_batch_norm_exchanges(config, data) * latency_s
    return StepTime(
        model_s=model_s,
        loss_s=loss_s,
        gradients_s=sum_s - hidden_s,
        batch_norm_s=waits_s + cost.batch_norm_traffic_bytes / link,
        optimizer_s=OPTIMIZER_PASSES[config.optimizer.name] * 4 * cost.num_parameters / memory,
        cost=cost,
    )


def _num_batch_norm_exchanges(config: PretrainConfig, data: TrainingData) -> int:
    """Times that layers wait for all ranks in a step: for mean and spread at once, and on the way back."""
    return sum(norm.num_layers * (2 if norm.has_gradient else 1) for norm in counted.sizes(config, data).norms)
