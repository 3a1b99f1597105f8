"""The expander, or whatever small network of linear layers stands behind an encoder."""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn

from vicreg.config import ModelConfig


def build_expander(
    in_features: int,
    widths: str,
    bias: Literal["hidden", "all", "none"] = ModelConfig.expander_bias,
    norm: Literal["hidden", "none", "all", "plain", "last"] = ModelConfig.expander_norm,
) -> nn.Sequential:
    """Linear, batch norm and ReLU for all but the last of the dashed widths, then a linear layer.

    `bias` says which of the linear layers have one, `norm` where there is batch norm (`ModelConfig`). Layer names and
    shapes are the official code's `Projector` where norm is "hidden".
    """
    sizes = [in_features, *map(int, widths.split("-"))]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes[:-1]):
        layers.append(nn.Linear(before, after, bias=bias != "none"))
        layers += [nn.BatchNorm1d(after)] if norm not in ("none", "last") else []
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(sizes[-2], sizes[-1], bias=bias == "all"))
    if norm in ("all", "plain", "last"):
        last = nn.BatchNorm1d(sizes[-1], affine=norm == "all")
        if norm == "all":
            last.bias.requires_grad_(False)
        layers.append(last)
    return nn.Sequential(*layers)


class UnitLength(nn.Module):
    """Rows (B, D) divided by their length."""

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        return nn.functional.normalize(rows, dim=1)
