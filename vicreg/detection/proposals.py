"""Where objects may be: torchvision's region proposal network, with detectron2's anchors and losses.

What differs from torchvision's is said in docs/evaluations.md. Losses are those of the global batch: on a rank the part
of its own images, to be summed over the ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from vicreg.detection.encoder_maps import MapSize
from vicreg.detection.keyed_sampler import KeyedSampler
from vicreg.detection.settings import Settings
from vicreg.ranks import distributed

RATIOS = (0.5, 1.0, 2.0)
ANCHORS_PER_IMAGE = 256
VIEW = 1  # of the keys


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors of exact size, in float32 whatever the maps' type is."""

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008, torchvision's own signature
    ) -> Tensor:
        """Boxes (ratios x scales, 4) around zero, not rounded to whole pixels."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths, heights = (sides / roots[:, None]).ravel(), (sides * roots[:, None]).ravel()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """See torchvision's, which takes the anchors' type from the maps."""
        found: list[Tensor] = super().forward(image_list, [one[:1, :1].float() for one in feature_maps])
        return found


class ProposalHead(RPNHead):  # type: ignore[misc]
    """Its answers are float32 under autocast too: they are pixels."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See torchvision's."""
        logits, deltas = super().forward(maps)
        return [one.float() for one in logits], [one.float() for one in deltas]


class Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """Boxes for each image, and in training two losses."""

    def __init__(self, sizes: list[MapSize], settings: Settings) -> None:
        levels = [(size,) for size in settings.anchor_sizes] if settings.head == "fpn" else [settings.anchor_sizes]
        anchors = Anchors(tuple(levels), (RATIOS,) * len(levels))
        before, after = (
            dict(zip(("training", "testing"), pair, strict=True))
            for pair in (settings.proposals_before, settings.proposals_after)
        )
        head = ProposalHead(sizes[0].channels, anchors.num_anchors_per_location()[0])
        super().__init__(
            anchors,
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=ANCHORS_PER_IMAGE,
            positive_fraction=0.5,
            pre_nms_top_n=before,
            post_nms_top_n=after,
            nms_thresh=0.7,
        )
        self.fg_bg_sampler = KeyedSampler(ANCHORS_PER_IMAGE, 0.5, VIEW)
        self._weight = settings.rpn_weight

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """This rank's part of both losses, over as many anchors as are drawn at most (detectron2: L1, not smoothed)."""
        positives, negatives = (torch.cat(masks).bool() for masks in self.fg_bg_sampler(labels))
        drawn = positives | negatives
        count = ANCHORS_PER_IMAGE * len(labels) * distributed.world_size()
        right = torch.cat(labels)[drawn]
        of_objects = F.binary_cross_entropy_with_logits(objectness.flatten()[drawn], right, reduction="sum")
        of_boxes = F.l1_loss(pred_bbox_deltas[positives], torch.cat(regression_targets)[positives], reduction="sum")
        return self._weight * of_objects / count, self._weight * of_boxes / count
