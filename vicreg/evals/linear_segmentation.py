"""Linear segmentation: the class of every pixel from the frozen encoder's last map, by a batch norm and one 1x1 layer.

As DINOv2 reports its linear heads (Oquab et al., 2023, section 7.4 and its code, dinov2/eval/segmentation): crops of
images scaled by 0.5 to 2, AdamW, linear decay; logits brought to the image's size, mean intersection over union. Here
whole images are looked at once when measured, where DINOv2 slides a window, and no crop is drawn again for holding too
much of one class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dataprep.beton.contract import Beton, open_beton
from dataprep.beton.manifest import class_names
from dataprep.beton.segments import SEGMENTS, VOID, decode_segments
from vicreg.detection.crops import CropLoader, CropSettings
from vicreg.detection.encoder_maps import map_sizes, maps_of
from vicreg.detection.scenes import Scenes, as_input, require_rgb, whole_scenes
from vicreg.evals.features import Splits
from vicreg.evals.results import Measured
from vicreg.evals.settings.linear_segmentation import Config as Config
from vicreg.evals.step_training import StepTraining
from vicreg.evals.work import Work
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise
from vicreg.views.order import batches_per_epoch, shard

RESUMES = True  # it keeps its state and leaves by itself when it is asked to
LONGEST = 4  # times the short side: longer images are brought down further


def evaluate(encoder: nn.Module, splits: Splits, config: Config, work: Work | None = None) -> Measured:
    """Mean intersection over union in percent (`miou`) over the classes that occur, and the share of right pixels.

    Raises ValueError where the betons have no classes of pixels, the encoder has no maps, the ranks do not divide the
    batch, or the loss does not stay finite; Stopped when `work` asks to stop.
    """
    names = class_names(splits.beton("val"))
    if names is None or names != class_names(splits.beton("train")):
        raise ValueError(f"{splits.data.train} and {splits.data.val} must have manifests that list the same classes")
    val = _opened(splits.beton("val"))
    training = HeadTraining(copy.deepcopy(encoder), splits, config)
    work = work or Work()
    training.run(work)
    heard = work.while_measuring(val.num_samples, config.steps, training.state)
    confusion = _measure(training.model.eval(), splits, config, val, heard)
    right, shown, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    known = shown > 0
    ratios = 100 * right / np.maximum(shown + said - right, 1)
    metrics = {"miou": float(ratios[known].mean()), "accuracy_pixels": float(100 * right.sum() / confusion.sum())}
    classes = {name: float(ratios[k]) for k, name in enumerate(names) if known[k]}
    left_out = {name: "no pixels" for k, name in enumerate(names) if not known[k]}
    return Measured(metrics, {"steps": config.steps, "loss": training.curve, "iou": classes, "left_out": left_out})


def _opened(path: Path) -> Beton:
    beton = open_beton(path)
    require_rgb(beton)
    if SEGMENTS not in beton.more:
        cure = "write it with dataprep/write_ffcv.py voc-segmentation or ade20k"
        raise ValueError(f"{path} has no field {SEGMENTS}, needed for linear_segmentation; {cure}")
    return beton


class LinearHead(nn.Module):
    """A batch norm and a 1x1 layer on the last of an encoder's maps, which stay as they are."""

    def __init__(self, encoder: nn.Module, num_classes: int, seed: int) -> None:
        super().__init__()
        self.maps = maps_of(encoder, cuts=False).requires_grad_(False)
        channels = map_sizes(self.maps)[-1].channels
        classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(classifier.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        nn.init.constant_(classifier.get_parameter("bias"), 0.0)
        self.layer = nn.Sequential(nn.BatchNorm2d(channels), classifier)

    def train(self, mode: bool = True) -> LinearHead:
        """The layer learns; the maps are always as they are measured."""
        super().train(mode)
        self.maps.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to scores (B, K, H, W)."""
        with torch.no_grad():
            last = self.maps(images)[-1].to(torch.float32)
        scores: Tensor = F.interpolate(self.layer(last), images.shape[2:], mode="bilinear", align_corners=False)
        return scores


class HeadTraining(StepTraining[tuple[Scenes, Tensor]]):
    """The layer behind the frozen maps, its optimizer, and how far they are."""

    def __init__(self, encoder: nn.Module, splits: Splits, config: Config) -> None:
        self._splits, self._config = splits, config
        self.model = LinearHead(encoder, splits.num_classes, config.seed).to(splits.device).train()
        synchronise(self.model.layer, splits.device)
        learned = self.model.layer.parameters()
        optimizer = torch.optim.AdamW(learned, lr=config.lr, weight_decay=config.weight_decay)
        self._beton = _opened(splits.beton("train"))
        per_epoch = batches_per_epoch(self._beton.num_samples, config.batch)
        layer = self.model.layer
        super().__init__("linear segmentation", layer, optimizer, GradientSum(layer), config, per_epoch, splits.device)

    def batches(self, first_step: int, end_step: int) -> Generator[tuple[Scenes, Tensor], None, None]:
        """See the base class; the loader draws by seed and step alone."""
        config, splits = self._config, self._splits
        drawn = CropSettings(config.batch, config.crop, config.scales, config.hflip_p, config.seed)
        pinned = splits.device.type == "cuda"
        loader = CropLoader(splits.data, self._beton, drawn, distributed.rank(), distributed.world_size(), pinned)
        return loader.batches(first_step, end_step, splits.workers)

    def loss(self, batch: tuple[Scenes, Tensor], step: int) -> Tensor:
        """This rank's part of the mean over all pixels of the global batch that have a class."""
        scenes, classes = batch[0].to(self._splits.device), batch[1].to(self._splits.device)
        num = distributed.sum_over_ranks((classes != VOID).sum().to(torch.float64)).clamp_min(1)
        scores = self.model(as_input(scenes, self._splits.normalise))
        total = F.cross_entropy(scores, classes.long(), ignore_index=VOID, reduction="sum")
        return (total / num).to(torch.float32)


@torch.no_grad()
def _measure(
    head: LinearHead, splits: Splits, config: Config, val: Beton, heard: Callable[[], None]
) -> NDArray[np.int64]:
    """How many pixels of each class (rows) were taken for each (columns), over all validation images."""
    num = splits.num_classes
    counts = torch.zeros(num * num, dtype=torch.int64)
    own = shard(val.num_samples, distributed.rank(), distributed.world_size())
    with closing(whole_scenes(splits.data, val, own, config.crop, LONGEST * config.crop, splits.workers)) as scenes:
        for one in scenes:
            sample, (height, width) = int(one.samples[0]), one.sizes[0]
            scores = head(as_input(one.to(splits.device), splits.normalise))[:, :, :height, :width]
            stored = int(val.heights[sample]), int(val.widths[sample])
            scores = F.interpolate(scores, stored, mode="bilinear", align_corners=False)
            said = scores[0].argmax(0).cpu()
            truth = torch.from_numpy(decode_segments(val.field_bytes(SEGMENTS, sample), *stored).copy())
            known = truth != VOID
            counts += torch.bincount(truth[known].long() * num + said[known], minlength=num * num)
            heard()
    found: NDArray[np.int64] = distributed.sum_over_ranks(counts).view(num, num).numpy()
    return found
