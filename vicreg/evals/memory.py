"""What a rank of an evaluation that trains on large images will hold at the most, found before it runs.

The model is built and takes a step, forward and backward, on fake tensors, which have shapes and no values. Stands
apart from vicreg/cost, which detectors stand beside, and imports torchvision's, which most plans do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dataprep.beton.contract import Beton, open_beton
from dataprep.beton.manifest import class_names
from vicreg.config import ModelConfig
from vicreg.config_json import from_json
from vicreg.cost.live_bytes import LiveBytes
from vicreg.cost.weightless import encoder_on_meta, with_empty_weights
from vicreg.detection.detector import Detector
from vicreg.detection.regions import POSITIVE_FRACTION, RegionPool
from vicreg.detection.scenes import padded, scene_size
from vicreg.detection.settings import Settings
from vicreg.evals import linear_segmentation


def peak_bytes(
    module: str, settings: Mapping[str, Any], model: ModelConfig, train: Path, val: Path, ranks: int, on_gpu: bool
) -> int:
    """Bytes of tensors on one of `ranks` ranks at the most, of a module that trains on large images.

    Weights, gradients, the optimizer's state, a batch of the largest images of both orientations, and what the passes
    hold; not what vicreg.cost.estimate.Cost leaves out either, nor what lasts for a moment when boxes are matched.
    Raises ValueError and OSError for betons that cannot be read.
    """
    num_classes, whole = len(class_names(val) or ()), dict(settings)
    encoder = encoder_on_meta(model)
    with torch.random.fork_rng(devices=[]), FakeTensorMode(), LiveBytes() as memory:
        encoder = with_empty_weights(encoder)
        if module == "detection":
            detection = from_json(Settings, whole)
            detector = Detector(encoder, num_classes, detection).train()
            largest = largest_scene(open_beton(train), detection.short_sides[1], detection.longest_side)
            with torch.autocast("cpu", torch.bfloat16, enabled=on_gpu):  # a GPU's own would ask for a GPU
                _detector_step(detector, _images(-(-detection.batch // ranks), largest), detection.regions)
        else:
            config = from_json(linear_segmentation.Config, whole)
            head = linear_segmentation.LinearHead(encoder, num_classes, config.seed).train()
            _head_step(head, config, ranks, open_beton(val))
    peak: int = memory.peak
    return peak


def largest_scene(beton: Beton, short_side: int, longest_side: int) -> tuple[int, int]:
    """Height and width of a batch in which are this beton's highest and its widest image, at their largest."""
    sizes = set(zip(beton.heights.tolist(), beton.widths.tolist(), strict=True))
    return padded([scene_size(height, width, short_side, longest_side) for height, width in sizes])


def _images(count: int, size: tuple[int, int]) -> Tensor:
    """A batch as a network gets it; what it was made of, a byte a value, stays beside it."""
    stored = torch.empty(count, *size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    return stored.to(torch.float32)


def _detector_step(detector: Detector, images: Tensor, num_regions: int) -> None:
    """One step of `vicreg.evals.detector_training`, with so many regions of each image."""
    learned = [p for p in detector.parameters() if p.requires_grad]
    momenta = [torch.empty_like(p) for p in learned]
    for parameter in learned:
        parameter.grad = torch.empty_like(parameter)
    levels = detector.levels(images)
    heads = detector.proposals.head(levels)
    answers = [one.sum() for part in heads for one in part]
    regions = detector.regions
    logits, deltas = regions.box_predictor(
        regions.box_head(_cut(regions.box_roi_pool, levels, len(images) * num_regions))
    )
    answers += [logits.float().log_softmax(1).sum(), deltas.float().sum()]
    if regions.has_mask():
        objects = int(POSITIVE_FRACTION * len(images) * num_regions)
        shapes = regions.mask_predictor(regions.mask_head(_cut(regions.mask_roi_pool, levels, objects)))
        answers.append(shapes.float().sum())
    torch.stack(answers).sum().backward()
    del momenta


def _cut(pool: RegionPool, levels: list[Tensor], count: int) -> Tensor:
    """Regions cut out of the maps, as many of each: which are cut out of which only values can say."""
    boxes = torch.empty(count, 5).chunk(len(pool.strides))
    return torch.cat([pool.cut(*one) for one in zip(levels, boxes, pool.strides, strict=False)])


def _head_step(head: nn.Module, config: linear_segmentation.Config, ranks: int, val: Beton) -> None:
    """One step of `vicreg.evals.linear_segmentation`, and the scores of the largest validation image."""
    images = -(-config.batch // ranks)
    side = padded([(config.crop, config.crop)])
    classes = torch.empty(images, *side, dtype=torch.int64)
    F.cross_entropy(head(_images(images, side)), classes, reduction="sum").backward()
    del classes
    stored = max(zip(val.heights.tolist(), val.widths.tolist(), strict=True), key=lambda size: size[0] * size[1])
    with torch.no_grad():
        looked_at = padded([scene_size(*stored, config.crop, linear_segmentation.LONGEST * config.crop)])
        F.interpolate(head(_images(1, looked_at)), stored, mode="bilinear", align_corners=False)
