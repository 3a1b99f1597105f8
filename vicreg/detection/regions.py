"""What is in a region: pooling as detectron2 does it, torchvision's matching, and the heads for boxes and masks.

Losses are those of the global batch: on a rank the part of its own regions, divided by all ranks' number of them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from vicreg.detection.encoder_maps import MapSize
from vicreg.detection.keyed_sampler import KeyedSampler
from vicreg.detection.settings import Settings
from vicreg.ranks import distributed

POSITIVE_FRACTION = 0.25
C4_SIDE, BOX_SIDE, MASK_SIDE = 14, 7, 14
MASK_PX = 2 * MASK_SIDE
CANONICAL_PX, CANONICAL_LEVEL = 224, 2  # a region of this size is looked at in the third of the pyramid's maps
VIEW = 2  # of the keys

Target = dict[str, Tensor]


class RegionPool(nn.Module):
    """Cuts regions out of the maps, aligned to half pixels, as many samples as pixels (detectron2's ROIAlignV2)."""

    def __init__(self, side: int, sizes: list[MapSize]) -> None:
        super().__init__()
        self._side, self.strides = side, [size.stride for size in sizes]

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Boxes (N, 4) of each image, in its pixels, to (all N, C, side, side)."""
        owners = torch.cat([one.new_full((len(one), 1), number) for number, one in enumerate(boxes)])
        regions = torch.cat([owners, torch.cat(boxes)], dim=1)
        if len(self.strides) == 1:
            return self.cut(maps[0], regions, self.strides[0])
        areas = (regions[:, 3] - regions[:, 1]) * (regions[:, 4] - regions[:, 2])
        levels = torch.floor(CANONICAL_LEVEL + torch.log2(areas.sqrt() / CANONICAL_PX + 1e-8))
        levels = levels.clamp(0, len(self.strides) - 1)
        found = maps[0].new_zeros((len(regions), maps[0].shape[1], self._side, self._side), dtype=torch.float32)
        for level, stride in enumerate(self.strides):
            own = torch.nonzero(levels == level)[:, 0]
            found = found.index_put((own,), self.cut(maps[level], regions[own], stride))
        return found

    def cut(self, one: Tensor, regions: Tensor, stride: int) -> Tensor:
        """Of one map, pixels `stride` apart, regions (N, 5): the image's number in front of the box."""
        cut: Tensor = roi_align(one.float(), regions, self._side, 1 / stride, sampling_ratio=-1, aligned=True)
        return cut


class StageHead(nn.Module):
    """An encoder's last stage, a batch norm behind it, and the mean over the region (MoCo's Res5ROIHeadsExtraNorm)."""

    def __init__(self, stage: nn.Module, channels: int) -> None:
        super().__init__()
        self.stage, self.norm = stage, nn.BatchNorm2d(channels)

    def forward(self, regions: Tensor) -> Tensor:
        """(N, C, side, side) to (N, channels)."""
        found: Tensor = self.norm(self.stage(regions)).mean(dim=(2, 3))
        return found


class Regions(RoIHeads):  # type: ignore[misc]
    """Classes and boxes of the proposals, and masks where there are heads for them."""

    def __init__(
        self,
        pool: RegionPool,
        head: nn.Module,
        width: int,
        num_classes: int,
        settings: Settings,
        mask_pool: RegionPool | None,
    ) -> None:
        """width: of what the head makes of a region."""
        super().__init__(
            pool,
            head,
            FastRCNNPredictor(width, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=settings.regions,
            positive_fraction=POSITIVE_FRACTION,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )
        self.fg_bg_sampler = KeyedSampler(settings.regions, POSITIVE_FRACTION, VIEW)
        if mask_pool is not None:
            self.mask_roi_pool = mask_pool
            channels = settings.pyramid
            self.mask_head = MaskRCNNHeads(channels, (channels,) * 4, 1)
            self.mask_predictor = MaskRCNNPredictor(channels, channels, num_classes + 1)
        self._initialise()

    def _initialise(self) -> None:
        """As detectron2 does, where torchvision leaves torch's defaults."""
        for predictor, deviation in ((self.box_predictor.cls_score, 0.01), (self.box_predictor.bbox_pred, 0.001)):
            nn.init.normal_(predictor.weight, std=deviation)
            nn.init.zeros_(predictor.bias)
        for layer in self.box_head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        if self.has_mask():
            nn.init.normal_(self.mask_predictor.mask_fcn_logits.weight, std=0.001)

    def losses(self, maps: list[Tensor], proposals: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """This rank's part of the losses of classes, boxes and, if they are learned, masks."""
        regions, matched, labels, wanted = self.select_training_samples(proposals, targets)
        logits, deltas = self._predict(maps, regions)
        right = torch.cat(labels)
        positives = torch.nonzero(right > 0)[:, 0]
        counts = torch.tensor([len(right), len(positives)], dtype=torch.float64, device=right.device)
        num, num_positive = distributed.sum_over_ranks(counts).clamp_min(1).unbind()
        own = deltas.view(len(right), -1, 4)[positives, right[positives]]
        found = {
            "class": F.cross_entropy(logits, right, reduction="sum") / num,
            "box": F.l1_loss(own, torch.cat(wanted)[positives], reduction="sum") / num,
        }
        if self.has_mask():
            kept = [one > 0 for one in labels]
            boxes = [one[keep] for one, keep in zip(regions, kept, strict=True)]
            of = [one[keep] for one, keep in zip(matched, kept, strict=True)]
            shapes = self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes))).float()
            chosen = shapes[torch.arange(len(positives), device=right.device), right[positives]]
            masks = [mask_targets(*one) for one in zip(targets, boxes, of, strict=True)]
            loss = F.binary_cross_entropy_with_logits(chosen, torch.cat(masks), reduction="sum")
            found["mask"] = loss / (num_positive * MASK_PX**2)
        return {name: loss.to(torch.float32) for name, loss in found.items()}

    def detect(self, maps: list[Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]) -> list[Target]:
        """Of each image boxes (N, 4), labels (N,) from 1, scores (N,) and, if learned, masks (N, MASK_PX, MASK_PX)."""
        logits, deltas = self._predict(maps, proposals)
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, sizes)
        found = [{"boxes": b, "scores": s, "labels": n} for b, s, n in zip(boxes, scores, labels, strict=True)]
        if self.has_mask():
            shapes = self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes))).float().sigmoid()
            chosen = shapes[torch.arange(len(shapes), device=shapes.device), torch.cat(labels)]
            for one, masks in zip(found, chosen.split([len(one) for one in boxes]), strict=True):
                one["masks"] = masks
        return found

    def _predict(self, maps: list[Tensor], regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(maps, regions)))
        return logits.float(), deltas.float()


def mask_targets(target: Target, boxes: Tensor, matched: Tensor) -> Tensor:
    """The masks (N, MASK_PX, MASK_PX) of zeros and ones of the objects that boxes (N, 4) were matched to.

    Cut out of the masks in the size in which they are stored, not that of the resized image.
    """
    masks = target["masks"]
    if not len(boxes):
        return boxes.new_zeros((0, MASK_PX, MASK_PX))
    regions = torch.cat([matched[:, None].to(boxes.dtype), boxes * target["mask_scale"]], dim=1)
    cut = roi_align(masks[:, None].to(boxes.dtype), regions, MASK_PX, 1.0, sampling_ratio=-1, aligned=True)
    inside: Tensor = cut[:, 0] >= 0.5
    return inside.to(boxes.dtype)


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Masks (N, m, m) of probabilities, each put into its box (N, 4) of an image: zeros and ones (N, height, width).

    Sampled at the centres of the image's pixels, as detectron2 does.
    """
    rows = torch.arange(height, device=boxes.device, dtype=boxes.dtype) + 0.5
    columns = torch.arange(width, device=boxes.device, dtype=boxes.dtype) + 0.5
    found = np.empty((len(masks), height, width), np.uint8)
    for number, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        left, top, right, bottom = box.unbind()
        y = (rows - top) / (bottom - top) * 2 - 1
        x = (columns - left) / (right - left) * 2 - 1
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2)
        pasted = F.grid_sample(mask[None, None], grid[None], align_corners=False)
        found[number] = (pasted[0, 0] >= 0.5).cpu().numpy()
    return found
