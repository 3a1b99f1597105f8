"""Any number of views of any sizes through one encoder and expander, those of one size at once.

As the official programs of SwAV, SupCon and LeJEPA have it: views of one size share the encoder's batch statistics, and
all views the expander's. Stands apart from `branches.py`, where each view has its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vicreg.config import PretrainConfig, require
from vicreg.method import Method, Pass
from vicreg.model import build_model


class OneNetwork(Method):
    """Encoder and expander; a loss is all that a method adds. ValueError for an encoder of the second branch."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        name, second = config.method.name, config.model.encoder_b
        require(not second, "encoder_b", second, f"none for {name}: all views pass through one network")
        self.encoder, self.expander = build_model(config.model)
        self.num_views = len(config.each_view)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """One."""
        return {"a": self.encoder}

    def embed(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings (V, B, D) of all views (B, 3, S, S), and the encoder's features (V B, F) without gradient."""
        groups = itertools.groupby(views, lambda view: view.shape)
        features = torch.cat([self.encoder(torch.cat(list(group))) for _, group in groups])
        embeddings = self.expander(features)
        return embeddings.view(len(views), -1, embeddings.shape[1]), features.detach()

    def passes(self) -> list[Pass]:
        """Each view forward and backward."""
        network = nn.Sequential(self.encoder, self.expander)
        return [Pass(network, view) for view in range(self.num_views)]
