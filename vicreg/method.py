"""The seam between learning and methods: all that the learner, the planner and the report know of a method.

A method is a file in `methods/`, what it is told (`MethodFile`, one floor down), and one of the same name in
`networks/`, what it computes: `NetworkFile`, of which the network must do what `Method` says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from vicreg.config import PretrainConfig
from vicreg.losses.forms import FormCost


@dataclass(frozen=True)
class TrainingData:
    """What a method may know of the training data when it is built."""

    num_samples: int
    num_classes: int
    """0 where the labels are no classes."""
    words: tuple[int, ...] = ()
    """Numbers of the words (views/captions.py) that an encoder of captions is to know."""

    def require_classes(self, method: str) -> int:
        """The number of classes; ValueError where the data have none that a method could learn from."""
        if self.num_classes < 2:
            raise ValueError(
                f"method.name is {method!r}, which learns from classes, but the training data have "
                f"{self.num_classes or 'none'}; allowed: data with a class for each image, or a method without labels"
            )
        return self.num_classes


UNKNOWN_DATA = TrainingData(num_samples=1, num_classes=2)
"""Where nothing is known of the data: sizes that every method can be built with."""


@dataclass(frozen=True)
class Inputs:
    """A rank's part of a global batch, ready for the networks."""

    views: Sequence[Tensor]
    """Each (B, 3, S, S); S may differ from view to view. Behind them those of other kinds: captions (B, L) int64."""
    labels: Tensor
    """int64 (B,)."""
    samples: Tensor
    """int64 (B,): places in the beton."""


@dataclass(frozen=True)
class Progress:
    """Where the run is."""

    step: int
    """0 is the first."""
    num_steps: int
    steps_per_epoch: int


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are learned in the same way."""

    parameters: Sequence[nn.Parameter]
    rate_factor: float = 1.0
    """Of the run's learning rate."""
    follows_schedule: bool = True
    """Whether the rate warms up and falls; else it stays at its peak."""
    decays: bool = True
    """Whether there is weight decay."""
    adapted: bool = True
    """Whether LARS adapts the rate to the norms."""
    rests_steps: int = 0
    """So many first steps leave the parameters as they are: no gradient, no decay, no momentum."""


@dataclass(frozen=True)
class Pass:
    """One way of a view through networks in a step."""

    network: nn.Module
    """A view in, embedding out."""
    view: int
    """Number of the view."""
    has_gradient: bool = True


@dataclass(frozen=True)
class LossCost:
    """What a loss takes on one rank in one step."""

    title: str
    """What is computed, such as "covariance of 2048 x 8192"."""
    forms: Mapping[str, FormCost]
    """Exact forms with the same result, the simplest first."""
    held_bytes: float
    """At the most beside what a form holds: embeddings, their gradients."""
    sent_bytes: float
    """Beside what a form sends."""
    moved_bytes: float
    """Read from and written to memory beside the products."""


class Method(nn.Module, ABC):
    """Networks and a loss. All that must survive a stop is in the state dict: teachers, queues, banks, pointers."""

    joins_views: ClassVar[bool] = False
    """Whether it can pass all views through the network at once (`train.joint_views`)."""
    follows_progress: ClassVar[bool] = True
    """Whether anything but the learning rate depends on where the run is; if not, one step may be recorded for all."""

    @property
    @abstractmethod
    def encoders(self) -> dict[str, nn.Module]:
        """What is kept, exported and measured, by name; the first is meant where none is named.

        The first is the attribute `encoder`, another NAME is `encoder_NAME`: their weights are found by it.
        """

    @abstractmethod
    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """The loss of the global batch and what is to be logged, each a number () that is the same on all ranks.

        "loss" has a gradient, which on a rank is that of the rank's own rows: the learner adds up the ranks' gradients.
        So a mean over the global batch is a sum over own rows divided by the rows of all ranks. "features" are the
        first encoder's (n B, D) without gradient, of one view after the other. State other than the running
        statistics of batch norm is changed by `after_step` alone.
        """

    @abstractmethod
    def passes(self) -> list[Pass]:
        """What passes through which network in a step, for what is told of its cost."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """How parameters are learned; one that is in no group is not learned and has no gradient.

        Unless a method says otherwise: biases and batch norm (one dimension) without weight decay and adaptation.
        """
        return usual_groups(self)

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """What follows the optimizer's step: moving averages, queues. Where `taken`, bool (), is not, nothing changes.

        `taken` is on the method's device: a GPU is not asked for it.
        """


class NetworkFile(Protocol):
    """What the file of the same name in `networks/` has."""

    def build(self, config: PretrainConfig, data: TrainingData) -> Method:
        """The method with random weights from torch's generator; ValueError for settings that it cannot work with."""
        ...

    def networks(self, config: PretrainConfig) -> str:
        """What it learns with, in a few words: "resnet50, expander 8192-8192-8192"."""
        ...

    def loss_cost(self, config: PretrainConfig, ranks: int, size: int) -> LossCost:
        """What the loss takes where an entry of an embedding has `size` bytes."""
        ...


def usual_groups(network: nn.Module, vector_rate_factor: float = 1.0) -> list[ParameterGroup]:
    """Weights; then biases and batch norm (one dimension), without weight decay and adaptation."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    vectors = [parameter for parameter in learned if parameter.ndim == 1]
    return [
        ParameterGroup([parameter for parameter in learned if parameter.ndim != 1]),
        ParameterGroup(vectors, vector_rate_factor, decays=False, adapted=False),
    ]
