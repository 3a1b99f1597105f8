"""VICReg: both views through the same encoder and expander, then the three terms."""

from __future__ import annotations

from torch import Tensor, nn

from vicreg.config import LossConfig, ModelConfig
from vicreg.loss import vicreg_loss
from vicreg.model import build_model


class Vicreg(nn.Module):
    """Bardes, Ponce, LeCun, ICLR 2022. Each view passes alone, so that batch norm has each view's own statistics."""

    def __init__(self, model: ModelConfig, loss: LossConfig) -> None:
        super().__init__()
        self.encoder, self.expander = build_model(model)
        self.loss_config = loss

    def forward(self, view_a: Tensor, view_b: Tensor) -> dict[str, Tensor]:
        """Loss and its terms for two views (B, 3, S, S) of the same images."""
        return vicreg_loss(self.expander(self.encoder(view_a)), self.expander(self.encoder(view_b)), self.loss_config)
