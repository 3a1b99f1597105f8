"""VICReg: both views through the same encoder and expander, then the three terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vicreg.config import LossConfig, ModelConfig
from vicreg.losses.vicreg import vicreg_loss
from vicreg.model import build_model


class Vicreg(nn.Module):
    """Bardes, Ponce, LeCun, ICLR 2022. Batch norm has each view's own statistics.

    Each view passes alone, or with `joint_views` both at once: then `separate_statistics` must have prepared the
    batch norms.
    """

    def __init__(self, model: ModelConfig, loss: LossConfig, joint_views: bool = False) -> None:
        super().__init__()
        self.encoder, self.expander = build_model(model)
        self.loss_config = loss
        self.joint_views = joint_views

    def forward(self, view_a: Tensor, view_b: Tensor) -> dict[str, Tensor]:
        """Loss and its terms for two views (B, 3, S, S) of the same images, and "features" (2B, D) of both."""
        if self.joint_views:
            features = self.encoder(torch.cat([view_a, view_b]))
            a, b = self.expander(features).chunk(2)
        else:
            of_a = self.encoder(view_a)
            a = self.expander(of_a)
            of_b = self.encoder(view_b)
            b = self.expander(of_b)
            features = torch.cat([of_a.detach(), of_b.detach()])
        return vicreg_loss(a, b, self.loss_config) | {"features": features.detach()}
