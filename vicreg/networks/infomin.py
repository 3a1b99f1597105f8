"""InfoMin Aug (Tian et al., NeurIPS 2020): MoCo v2 with stronger views, and a jigsaw that looks for the same key."""

from __future__ import annotations

from torch import Tensor, nn

from vicreg.config import PretrainConfig
from vicreg.key_queue import KeyQueue
from vicreg.losses.contrastive import queue_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.method import Inputs, LossCost, ParameterGroup, Pass, Progress, TrainingData
from vicreg.methods.infomin import Config
from vicreg.model import num_features
from vicreg.networks import moco_v2
from vicreg.networks.moco_v2 import Moco
from vicreg.patches import Jigsaw, global_draws
from vicreg.presets import PATCH_SHARE

CELLS = 3
"""Parts of each side of the third view that patches are cut from."""


class InfoMin(Moco):
    """MoCo, and nine patches of a third view in random order, whose joint embedding looks for the image's key too."""

    num_views = 3

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config, settings)
        self.jigsaw_weight, self.seed = settings.jigsaw_weight, config.train.seed
        dims = int(config.model.expander.split("-")[-1])
        self.patch_head = nn.Linear(num_features(self.encoder), dims)
        self.jigsaw_head = nn.Linear(CELLS**2 * dims, dims)

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        features = self.encoder(inputs.views[0])
        query = self.expander(features)
        key = self.keys_of(inputs.views[1])
        patches = inputs.views[2]
        draws = global_draws(len(patches), (CELLS**2, 3), (self.seed << 32) + progress.step, patches.device)
        pieces = self._jigsaw()(patches, draws)
        (queue,) = self.queues
        assert isinstance(queue, KeyQueue)
        image, jigsaw = (queue_loss(z, key, queue.keys, self.settings.temperature) for z in (query, pieces))
        self._new_keys = [key]
        loss = (1 - self.jigsaw_weight) * image["loss"] + self.jigsaw_weight * jigsaw["loss"]
        return {
            "loss": loss,
            "positive_similarity": image["positive_similarity"],
            "embedding_std": spread_of_directions(query),
            "jigsaw_loss": jigsaw["loss"].detach(),
            "features": features.detach(),
        }

    def _jigsaw(self) -> Jigsaw:
        return Jigsaw(self.encoder, self.patch_head, self.jigsaw_head, CELLS, PATCH_SHARE)

    def parameter_groups(self) -> list[ParameterGroup]:
        """As MoCo's, and the jigsaw's heads."""
        heads = [*self.patch_head.parameters(), *self.jigsaw_head.parameters()]
        return [*super().parameter_groups(), ParameterGroup(heads)]

    def passes(self) -> list[Pass]:
        """As MoCo's, and the jigsaw."""
        return [*super().passes(), Pass(self._jigsaw(), 2)]


def build(config: PretrainConfig, data: TrainingData) -> InfoMin:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return InfoMin(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return f"{moco_v2.networks(config)}, a jigsaw of {CELLS**2} patches"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. Two kinds of queries against one queue."""
    return moco_v2.loss_cost(config, ranks, size, queries=2)
