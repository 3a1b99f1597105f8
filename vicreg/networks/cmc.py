"""CMC (Tian, Krishnan, Isola, ECCV 2020): lightness and colour of an image, each told from the other's memory bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg.config import PretrainConfig, require
from vicreg.expander import build_expander
from vicreg.lab_colours import LabEncoder
from vicreg.losses.contrastive import at_least_float32, queue_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.memory_bank import MemoryBank, bank_cost
from vicreg.method import Inputs, LossCost, Method, ParameterGroup, Pass, Progress, TrainingData
from vicreg.methods.cmc import Config
from vicreg.model import encoder_by_config


class Halves(nn.Module):
    """Images (B, 3, S, S) to embeddings (B, 2D) of lightness and colour, one beside the other."""

    def __init__(self, encoder: LabEncoder, of_lightness: nn.Module, of_colour: nn.Module) -> None:
        super().__init__()
        self.encoder, self.of_lightness, self.of_colour = encoder, of_lightness, of_colour

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        lightness, colour = self.encoder.halves(images)
        return torch.cat([self.of_lightness(lightness), self.of_colour(colour)], 1)


class Cmc(Method):
    """A view through both halves of the encoder, each with a head and a memory bank of its own."""

    def __init__(self, config: PretrainConfig, settings: Config, data: TrainingData) -> None:
        super().__init__()
        model = config.model
        require(len(config.each_view) == 1, "views", f"{len(config.each_view)} of an image", "1 for cmc")
        require(model.colours == "lab", "colours", model.colours, "'lab' for cmc (--model.colours lab)")
        require(not model.encoder_b, "encoder_b", model.encoder_b, "none for cmc")
        self.settings, self.seed = settings, config.train.seed
        encoder = encoder_by_config(model)
        assert isinstance(encoder, LabEncoder)
        encoder.normalised_by(config.data.mean, config.data.std)
        self.encoder = encoder
        dims = int(model.expander.split("-")[-1])
        for half, network in (("lightness", encoder.lightness), ("colour", encoder.colour)):
            width = network.num_features
            assert isinstance(width, int)
            head = build_expander(width, model.expander, model.expander_bias, model.expander_norm)
            self.add_module(f"expander_{half}", head)
            self.add_module(f"bank_{half}", MemoryBank(data.num_samples, dims, settings.bank_momentum))

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """One, whose features are both halves'."""
        return {"a": self.encoder}

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        settings, samples = self.settings, inputs.samples
        features = self.encoder.halves(inputs.views[0])
        embedded = [head(each) for head, each in zip(self._heads(), features, strict=True)]
        seed = (self.seed << 32) + progress.step
        losses = []
        for rows, bank in zip(embedded, reversed(self._banks()), strict=True):  # each beside the other's bank
            others = bank.others(samples, settings.num_negatives, seed)
            losses.append(queue_loss(rows, bank.own(samples), others, settings.temperature)["loss"])
        units = [functional.normalize(at_least_float32(rows.detach())) for rows in embedded]
        self._seen = samples, units
        return {
            "loss": losses[0] + losses[1],
            "lightness_loss": losses[0].detach(),
            "colour_loss": losses[1].detach(),
            "embedding_std": spread_of_directions(*units),
            "features": torch.cat([each.detach() for each in features], 1),
        }

    def parameter_groups(self) -> list[ParameterGroup]:
        """All with weight decay, as in the official code."""
        return [ParameterGroup([parameter for parameter in self.parameters() if parameter.requires_grad])]

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """Both embeddings into their own banks."""
        samples, units = self._seen
        for bank, rows in zip(self._banks(), units, strict=True):
            bank.follow(samples, rows, taken)

    def _heads(self) -> list[nn.Module]:
        return [self.get_submodule("expander_lightness"), self.get_submodule("expander_colour")]

    def _banks(self) -> list[MemoryBank]:
        banks = [self.get_submodule("bank_lightness"), self.get_submodule("bank_colour")]
        return [bank for bank in banks if isinstance(bank, MemoryBank)]

    def passes(self) -> list[Pass]:
        """The view through both halves."""
        return [Pass(Halves(self.encoder, *self._heads()), 0)]


def build(config: PretrainConfig, data: TrainingData) -> Cmc:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Cmc(config, config.method, data)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return f"two {config.model.encoder} (L; a and b), each with expander {config.model.expander} and a memory bank"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    total, dims = config.train.global_batch, int(config.model.expander.split("-")[-1])
    return bank_cost(total, dims, config.method.num_negatives, 2, ranks, size)
