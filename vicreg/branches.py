"""Two views through two branches, each an encoder and an expander: what methods of joint embedding have in common.

The branches share their weights, or each has its own (paper, section 5.4 and Table 5: encoder and expander are separate
then). Stands apart from `method.py`, the seam, which asks for no branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vicreg.config import PretrainConfig, require
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.method import Inputs, Method, ParameterGroup, Pass, Progress, usual_groups
from vicreg.model import build_model, num_features
from vicreg.one_branch import branch


class Embedded(NamedTuple):
    """What the branches make of two views."""

    a: Tensor
    """Embeddings (B, D) of the first view."""
    b: Tensor
    features: Tensor
    """The first encoder's, without gradient: (2B, F) of both views where it is shared, else (B, F) of the first."""


def _width(encoder: nn.Module, expander: nn.Sequential) -> int:
    """Of the embeddings of a branch."""
    linear = [layer.out_features for layer in expander if isinstance(layer, nn.Linear)]
    return linear[-1] if linear else num_features(encoder)


def say_branches(config: PretrainConfig) -> str:
    """Encoders and expander in a few words."""
    model = config.model
    encoders = f"{model.encoder} and {model.encoder_b}, each with" if model.encoder_b else f"{model.encoder},"
    return f"{encoders} expander {model.expander}"


class Branches(Method):
    """Encoder and expander of two branches; a loss is all that a method adds. Batch norm has each view's statistics.

    Each view passes alone, or with `train.joint_views` both at once: then `separate_statistics` must have prepared the
    batch norms. ValueError for another number of views, views of two sizes at once, or at once without shared weights.
    """

    joins_views = True

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        sizes = [view.image_size for view in config.each_view]
        wanted = NUM_VIEWS - len(config.other_kinds)
        beside = "".join(f", beside that of {kind}" for kind in config.other_kinds)
        allowed = f"{wanted} for {config.method.name}{beside}"
        require(len(sizes) == wanted, "views", f"{len(sizes)} of an image", allowed)
        model, self.is_frozen = config.model, config.model.frozen
        self.encoder, self.expander = build_model(replace(model, encoder_b="", expander_b=""))
        self.is_shared = not model.encoder_b
        if not self.is_shared:
            self.encoder_b, self.expander_b = build_model(branch(model, "b"))
            widths = [_width(*pair) for pair in ((self.encoder, self.expander), (self.encoder_b, self.expander_b))]
            said = f"{model.expander_b or model.expander} ({widths[1]} wide)"
            require(widths[0] == widths[1], "expander_b", said, f"one that ends {widths[0]} wide, as the first does")
        self.joint_views = config.train.joint_views
        if self.joint_views:
            one_pass = self.is_shared and sizes[0] == sizes[1]
            require(one_pass, "joint_views", True, "for two views of one size and without encoder_b")

    def train(self, mode: bool = True) -> Branches:
        """As every module; a frozen encoder stays as it is."""
        super().train(mode)
        if self.is_frozen:
            self.encoder.eval()
        return self

    def parameter_groups(self) -> list[ParameterGroup]:
        """The usual ones, without a frozen encoder."""
        return self.learned_groups()

    def learned_groups(self, vector_rate_factor: float = 1.0) -> list[ParameterGroup]:
        """The usual groups without a frozen encoder."""
        if self.is_frozen:
            self.encoder.requires_grad_(False)
        return usual_groups(self, vector_rate_factor)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """One, or one of each branch."""
        return {"a": self.encoder} if self.is_shared else {"a": self.encoder, "b": self.encoder_b}

    def embed(self, views: Sequence[Tensor]) -> Embedded:
        """Both views (B, 3, S, S) through their branches."""
        if self.joint_views:
            features = self.encoder(torch.cat(list(views)))
            a, b = self.expander(features).chunk(NUM_VIEWS)
            return Embedded(a, b, features.detach())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            of_a = self.encoder(views[0])
        a = self.expander(of_a)
        if not self.is_shared:
            return Embedded(a, self.expander_b(self.encoder_b(views[1])), of_a.detach())
        of_b = self.encoder(views[1])
        b = self.expander(of_b)
        return Embedded(a, b, torch.cat([of_a.detach(), of_b.detach()]))

    def passes(self) -> list[Pass]:
        """Each view through its branch, forward and backward."""
        first = nn.Sequential(self.encoder, self.expander)
        second = first if self.is_shared else nn.Sequential(self.encoder_b, self.expander_b)
        return [Pass(first, 0), Pass(second, 1)]


class DirectedBranches(Branches):
    """Branches whose loss looks at the directions of both embeddings alone, the same at every step."""

    follows_progress = False

    def loss(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Terms of embeddings (B, D) of this rank's part of the global batch."""
        raise NotImplementedError

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the method's terms, and how far the embeddings are spread."""
        embedded = self.embed(inputs.views)
        spread = spread_of_directions(embedded.a, embedded.b)
        return self.loss(embedded.a, embedded.b) | {"embedding_std": spread, "features": embedded.features}
