"""CPC v2 (Henaff et al., ICML 2020): patches of an image are predicted from those on one side of them.

There is no official code. From the paper: overlapping patches, each through the encoder, layer norm, a masked
convolutional context, prediction in four directions, patches that lose colour and are mirrored; from Lightning Bolts'
port: 64-dimensional targets, the scale of 0.1 of inner products. The rest is ours, and said where it stands.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg.config import PretrainConfig, require
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import ring_sum_bytes
from vicreg.losses.prediction import prediction_cost, prediction_loss
from vicreg.method import Inputs, LossCost, Method, Pass, Progress, TrainingData
from vicreg.methods.cpc_v2 import Config
from vicreg.model import encoder_by_config, num_features
from vicreg.patches import global_draws, overlapping_patches

NUM_DIRECTIONS = 4


class Context(nn.Module):
    """Patches' features (B, F, G, G) to predictions of the rows below, which only rows above and the own one enter."""

    def __init__(self, width: int, settings: Config) -> None:
        super().__init__()
        dims = settings.context_dims
        self.reduce = nn.Conv2d(width, dims, 1)
        self.layers = nn.ModuleList(nn.Conv2d(dims, dims, (2, 3)) for _ in range(settings.context_layers))
        self.heads = nn.ModuleList(nn.Conv2d(dims, settings.target_dims, 1) for _ in settings.ahead)

    def forward(self, features: Tensor) -> list[Tensor]:
        """For each number of rows ahead, predictions (B, D, G, G) made at each place."""
        context = self.reduce(features)
        for layer in self.layers:
            above_and_aside = functional.pad(functional.relu(context), (1, 1, 1, 0))
            context = context + layer(above_and_aside)
        return [head(context) for head in self.heads]


class Patchwork(nn.Module):
    """Images (B, 3, S, S) to the features of their patches, targets and predictions."""

    def __init__(self, encoder: nn.Module, target: nn.Module, contexts: nn.ModuleList, settings: Config) -> None:
        super().__init__()
        self.encoder, self.target, self.contexts, self.settings = encoder, target, contexts, settings

    def parts(self, images: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, G^2, F), targets (B G^2, D) and predictions (Q, D), in the order of `answers`.

        draws: uniform numbers (B, G^2, 3) that say which patches are mirrored and which lose what colour.
        """
        grid = self.settings.grid
        half_px = images.shape[2] // (grid + 1)
        patches = overlapping_patches(
            images[:, :, : (grid + 1) * half_px, : (grid + 1) * half_px], 2 * half_px, half_px
        )
        patches = patches.reshape(-1, *patches.shape[3:])
        if draws is not None:
            patches = self._augmented(patches, draws.flatten(0, 1))
        features = self.encoder(patches)
        on_grid = features.view(len(images), grid, grid, -1).permute(0, 3, 1, 2)
        predicted = []
        for turns, context in enumerate(self.contexts):
            made = context(on_grid.rot90(turns, (2, 3)))
            for ahead, each in zip(self.settings.ahead, made, strict=True):
                predicted.append(each[:, :, : grid - ahead].permute(0, 2, 3, 1).flatten(0, 2))
        return features.view(len(images), grid**2, -1), self.target(features), torch.cat(predicted)

    def forward(self, images: Tensor) -> Tensor:
        """The predictions (Q, D)."""
        return self.parts(images, None)[2]

    def answers(self, batch: int, device: torch.device) -> Tensor:
        """Which of the batch's targets each prediction is of (Q,)."""
        grid = self.settings.grid
        places = torch.arange(batch * grid**2, device=device).view(batch, grid, grid)
        turned = [places.rot90(turns, (1, 2)) for turns in range(NUM_DIRECTIONS)]
        return torch.cat([each[:, ahead:].flatten() for each in turned for ahead in self.settings.ahead])

    def _augmented(self, patches: Tensor, draws: Tensor) -> Tensor:
        settings = self.settings
        mirrored, dropped, kept = (draws[:, number, None, None, None] for number in range(3))
        patches = torch.where(mirrored < settings.flip_p, patches.flip(3), patches)
        channels = torch.arange(patches.shape[1], device=patches.device).view(1, -1, 1, 1)
        lost = (dropped < settings.colour_drop_p) & (channels != (kept * 3).long())
        return torch.where(lost, 0.0, patches)  # 0 is the mean


class CpcV2(Method):
    """One view in patches; predictions go down, and to the other three sides of the grid."""

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__()
        views, second = config.each_view, config.model.encoder_b
        require(len(views) == 1, "views", f"{len(views)} of an image", "1 for cpc_v2")
        require(not second, "encoder_b", second, "none for cpc_v2")
        least = 2 * (settings.grid + 1)
        require(
            views[0].image_size >= least, "image_size", views[0].image_size, f"{least} pixels or more for this grid"
        )
        self.settings, self.seed = settings, config.train.seed
        self.encoder = encoder_by_config(config.model)
        width = num_features(self.encoder)
        self.target = nn.Linear(width, settings.target_dims)
        self.contexts = nn.ModuleList(Context(width, settings) for _ in range(NUM_DIRECTIONS))

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """One."""
        return {"a": self.encoder}

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`. The features are the means over an image's patches."""
        images, network = inputs.views[0], self._network()
        draws = global_draws(len(images), (self.settings.grid**2, 3), (self.seed << 32) + progress.step, images.device)
        features, targets, predicted = network.parts(images, draws)
        answers = network.answers(len(images), images.device)
        loss, right = prediction_loss(predicted, targets, answers, self.settings.scale)
        std = spread_of_directions(targets.detach())
        return {"loss": loss, "right": right, "embedding_std": std, "features": features.detach().mean(1)}

    def _network(self) -> Patchwork:
        return Patchwork(self.encoder, self.target, self.contexts, self.settings)

    def passes(self) -> list[Pass]:
        """The patches of the view."""
        return [Pass(self._network(), 0)]


def build(config: PretrainConfig, data: TrainingData) -> CpcV2:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    has_colours = not config.model.channels or not config.method.colour_drop_p
    require(has_colours, "colour_drop_p", config.method.colour_drop_p, "0 for images that are not RGB")
    return CpcV2(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return f"{config.model.encoder} for {config.method.grid} x {config.method.grid} patches, four context networks"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    settings = config.method
    assert isinstance(settings, Config)
    grid, dims, total = settings.grid, settings.target_dims, config.train.global_batch
    patches = total * grid**2
    predictions = total * NUM_DIRECTIONS * sum((grid - ahead) * grid for ahead in settings.ahead)
    only = prediction_cost(predictions, patches, dims, ranks, size)
    own = (patches + predictions) // ranks * dims * size
    title = f"{predictions} predictions of {patches} x {dims}"
    return LossCost(title, {"only": only}, 2 * own, ring_sum_bytes(2 * dims * size, ranks), 6 * own)
