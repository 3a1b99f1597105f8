"""A detector on an encoder: C4, whose last stage looks at regions, or a feature pyramid; both as MoCo and detectron2.

Built from torchvision's well-kept parts; docs/evaluations.md says in what these differ from detectron2's, and what was
done about it. Nothing is frozen, and every batch norm learns.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from vicreg.detection.encoder_maps import MapSize, map_sizes, maps_of
from vicreg.detection.proposals import Proposals
from vicreg.detection.regions import (
    BOX_SIDE,
    C4_SIDE,
    MASK_SIDE,
    RegionPool,
    Regions,
    StageHead,
    Target,
)
from vicreg.detection.settings import Settings
from vicreg.model import num_features

PROPOSAL_LOSSES = {"loss_objectness": "proposal", "loss_rpn_box_reg": "proposal_box"}


class Detector(nn.Module):
    """An encoder, whose layers it has, with proposals and heads; its own first weights come from the settings' seed.

    ValueError where the encoder has not the maps that the head needs.
    """

    def __init__(self, encoder: nn.Module, num_classes: int, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self.maps = maps_of(encoder, cuts=settings.head == "c4")
        sizes = map_sizes(self.maps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            if settings.head == "c4":
                self._build_c4(encoder, sizes[-1:], num_classes)
            else:
                self._build_fpn(sizes, num_classes)

    def _build_c4(self, encoder: nn.Module, sizes: list[MapSize], num_classes: int) -> None:
        self.pyramid: FeaturePyramidNetwork | None = None
        self.proposals = Proposals(sizes, self._settings)
        width = num_features(encoder)
        head = StageHead(encoder.get_submodule("layer4"), width)
        self.regions = Regions(RegionPool(C4_SIDE, sizes), head, width, num_classes, self._settings, None)

    def _build_fpn(self, sizes: list[MapSize], num_classes: int) -> None:
        channels, hidden = self._settings.pyramid, self._settings.hidden
        self.pyramid = FeaturePyramidNetwork([size.channels for size in sizes], channels, LastLevelMaxPool())
        levels = [MapSize(channels, size.stride) for size in sizes]
        self.proposals = Proposals(levels, self._settings)
        head = TwoMLPHead(channels * BOX_SIDE**2, hidden)
        mask_pool = RegionPool(MASK_SIDE, levels) if self._settings.masks else None
        pool = RegionPool(BOX_SIDE, levels)
        self.regions = Regions(pool, head, hidden, num_classes, self._settings, mask_pool)

    def set_keys(self, step: int, samples: NDArray[np.int64]) -> None:
        """Before a step of training: by what anchors and regions are drawn."""
        for part in (self.proposals, self.regions):
            part.fg_bg_sampler.set_keys(self._settings.seed, step, samples)

    def levels(self, images: Tensor) -> list[Tensor]:
        """What proposals and regions look at: the maps of the pyramid, or the encoder's last."""
        maps: list[Tensor] = self.maps(images)
        if self.pyramid is None:
            return maps[-1:]
        return list(self.pyramid(OrderedDict((str(number), one) for number, one in enumerate(maps))).values())

    def forward(
        self, images: Tensor, sizes: list[tuple[int, int]], targets: list[Target] | None = None
    ) -> dict[str, Tensor] | list[Target]:
        """Normalised images (B, 3, H, W), each of its own size in them: losses with targets, else what is detected.

        Losses are this rank's parts; their sum over the ranks is that of the global batch.
        """
        levels = self.levels(images)
        seen = OrderedDict((str(number), one) for number, one in enumerate(levels))
        boxes, of_proposals = self.proposals(ImageList(images, sizes), seen, targets)
        boxes = [one.detach() for one in boxes]
        if targets is None:
            return self.regions.detect(levels, boxes, sizes)
        found = {PROPOSAL_LOSSES[name]: loss for name, loss in of_proposals.items()}
        return found | self.regions.losses(levels, boxes, targets)
