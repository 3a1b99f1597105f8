"""SwAV (Caron et al., NeurIPS 2020): each view predicts to which prototypes another view was assigned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vicreg.config import (
    PretrainConfig,
    require,
)
from vicreg.key_queue import KeyQueue
from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import ring_sum_bytes
from vicreg.losses.prototypes import prototypes_cost, sinkhorn, swapped_prediction
from vicreg.method import Inputs, LossCost, ParameterGroup, Progress, TrainingData, usual_groups
from vicreg.methods.swav import Config
from vicreg.one_network import OneNetwork
from vicreg.ranks import distributed


class Swav(OneNetwork):
    """All views through encoder and expander; unit embeddings are compared with unit prototypes.

    The queue is the same on all ranks, so that any number of them can go on with it; each takes its share of it to the
    assignment. ValueError where its length is no multiple of the global batch, or views are too few.
    """

    num_queued: Tensor

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings
        batch, dims = config.train.global_batch, int(config.model.expander.split("-")[-1])
        least = max(2, settings.num_assigned)
        require(self.num_views >= least, "views", f"{self.num_views} of an image", f"{least} or more for swav")
        self.prototypes = nn.Linear(dims, settings.num_prototypes, bias=False)
        with torch.no_grad():
            self.prototypes.weight.copy_(nn.functional.normalize(self.prototypes.weight, dim=1))
        if settings.queue_length:
            queues = (KeyQueue(settings.queue_length, dims, batch) for _ in range(settings.num_assigned))
            self.queues = nn.ModuleList(queues)
            self.register_buffer("num_queued", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embeddings, features = self.embed(inputs.views)
        unit = nn.functional.normalize(at_least_float32(embeddings), dim=2)
        self._assigned = unit[: self.settings.num_assigned].detach()
        with torch.autocast(unit.device.type, enabled=False):
            targets = [self._assign(view, rows, progress) for view, rows in enumerate(self._assigned)]
        loss = swapped_prediction(unit, self.prototypes.weight, targets, self.settings.temperature)
        return {"loss": loss, "embedding_std": spread_of_directions(*unit.detach()), "features": features}

    @torch.no_grad()
    def _assign(self, view: int, rows: Tensor, progress: Progress) -> Tensor:
        """Own rows' assignments (n, K), made beside the queue's once that is full."""
        rows = rows.to(self.prototypes.weight.dtype)
        counts = rows.new_ones(len(rows))
        taken = rows
        if self._fills(progress):
            share = self.settings.queue_length // distributed.world_size()
            earlier = self.queues[view].get_buffer("keys")[distributed.rank() * share :][:share]
            is_full = self.num_queued >= self.settings.queue_length
            taken = torch.cat([rows, earlier])
            counts = torch.cat([counts, is_full.to(counts.dtype).expand(share)])
        scores = taken @ self.prototypes.weight.T
        return sinkhorn(scores, counts, self.settings.epsilon, self.settings.sinkhorn_rounds)[: len(rows)]

    def _fills(self, progress: Progress) -> bool:
        begins = round(self.settings.queue_from_epoch * progress.steps_per_epoch)
        return self.settings.queue_length > 0 and progress.step >= begins

    def parameter_groups(self) -> list[ParameterGroup]:
        """The prototypes rest at first; biases and batch norm as the settings say."""
        settings, prototypes = self.settings, list(self.prototypes.parameters())
        network = nn.ModuleList([self.encoder, self.expander])
        others = [p for p in network.parameters() if p.requires_grad]
        groups = [ParameterGroup(others)] if settings.adapt_all else usual_groups(network)
        return [*groups, ParameterGroup(prototypes, rests_steps=settings.rest_steps)]

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """Prototypes back to unit length, embeddings into the queue in the place of the oldest."""
        weight = self.prototypes.weight
        if progress.step >= self.settings.rest_steps:
            weight.copy_(torch.where(taken, nn.functional.normalize(weight, dim=1), weight))
        if self._fills(progress):
            for queue, own in zip(self.queues, self._assigned, strict=True):
                assert isinstance(queue, KeyQueue)
                queue.push(own, taken)
            self.num_queued += torch.where(taken, self._assigned.shape[1] * distributed.world_size(), 0)


def build(config: PretrainConfig, data: TrainingData) -> Swav:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Swav(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return f"{config.model.encoder}, expander {config.model.expander}, {config.method.num_prototypes} prototypes"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    settings = config.method
    assert isinstance(settings, Config)
    total, views = config.train.global_batch, len(config.each_view)
    dims = int(config.model.expander.split("-")[-1])
    only = prototypes_cost(
        total, views, settings.num_assigned, settings.queue_length, settings.num_prototypes, dims, ranks,
        settings.sinkhorn_rounds, size,
    )  # fmt: skip
    own = total // ranks * views * dims * size
    title = f"{total} x {dims} beside {settings.num_prototypes} prototypes"
    return LossCost(title, {"only": only}, 3 * own, ring_sum_bytes(2 * dims * size, ranks), 6 * own)
