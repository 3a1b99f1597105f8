"""Linear segmentation: the class of every pixel from the frozen encoder's last map, by a batch norm and one 1x1 layer.

As DINOv2 reports its linear heads (Oquab et al., 2023, section 7.4 and its code, dinov2/eval/segmentation): crops of
images scaled by 0.5 to 2, AdamW, linear decay; logits brought to the image's size, mean intersection over union. Here
whole images are looked at once when measured, where DINOv2 slides a window, and no crop is drawn again for holding too
much of one class.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dataprep.beton.contract import Beton, open_beton
from dataprep.beton.manifest import class_names
from dataprep.beton.segments import SEGMENTS, VOID, decode_segments
from vicreg.config import require
from vicreg.detection.crops import CropLoader, CropSettings
from vicreg.detection.encoder_maps import map_sizes, maps_of
from vicreg.detection.scenes import Scenes, as_input, require_rgb, whole_scenes
from vicreg.evals.features import Splits
from vicreg.evals.results import Measured
from vicreg.evals.work import Work
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise
from vicreg.views.order import batches_per_epoch, shard

log = logging.getLogger(__name__)

RESUMES = True  # it keeps its state and leaves by itself when it is asked to
LOOK_EVERY = 20
LONGEST = 4  # times the short side: longer images are brought down further


@dataclass(frozen=True)
class Config:
    """Source: DINOv2's linear configurations for ADE20k and VOC2012, which are mmsegmentation's 40k schedule."""

    steps: int = 40_000
    """Steps of training."""
    batch: int = 16
    """Images per step over all ranks."""
    lr: float = 1e-3
    """Learning rate of AdamW; it falls linearly to 0."""
    warmup_steps: int = 1_500
    """Steps in which the rate rises from a millionth of it."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    crop: int = 512
    """Side of training crops in pixels, and shorter side of images when measured."""
    scales: tuple[float, float] = (0.5, 2.0)
    """By which images, their shorter side brought to `crop`, are scaled before they are cropped."""
    hflip_p: float = 0.5
    """Probability of a horizontal flip in training."""
    seed: int = 0
    """Seed of the layer's first weights, of order and crops."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.crop >= 32, "crop", self.crop, "32 or more pixels")
        require(0 < self.scales[0] <= self.scales[1], "scales", self.scales, "smallest and largest, above 0")
        require(0 <= self.hflip_p <= 1, "hflip_p", self.hflip_p, "0 to 1")

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        warm = 1e-6 + (1 - 1e-6) * step / self.warmup_steps if step < self.warmup_steps else 1.0
        return warm * (1 - step / self.steps)


def evaluate(encoder: nn.Module, splits: Splits, config: Config, work: Work | None = None) -> Measured:
    """Mean intersection over union in percent (`miou`) over the classes that occur, and the share of right pixels.

    Raises ValueError where the betons have no classes of pixels, the encoder has no maps, the ranks do not divide the
    batch, or the loss does not stay finite; Stopped when `work` asks to stop.
    """
    names = class_names(splits.beton("val"))
    if names is None or names != class_names(splits.beton("train")):
        raise ValueError(f"{splits.data.train} and {splits.data.val} must have manifests that list the same classes")
    val = _opened(splits.beton("val"))
    head = _Head(copy.deepcopy(encoder), splits, config)
    work = work or Work()
    head.run(work)
    heard = work.while_measuring(val.num_samples, config.steps, head.state)
    confusion = _measure(head, splits, config, val, heard)
    right, shown, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    known = shown > 0
    ratios = 100 * right / np.maximum(shown + said - right, 1)
    metrics = {"miou": float(ratios[known].mean()), "accuracy_pixels": float(100 * right.sum() / confusion.sum())}
    classes = {name: float(ratios[k]) for k, name in enumerate(names) if known[k]}
    left_out = {name: "no pixels" for k, name in enumerate(names) if not known[k]}
    return Measured(metrics, {"steps": config.steps, "loss": head.curve, "iou": classes, "left_out": left_out})


def _opened(path: Path) -> Beton:
    beton = open_beton(path)
    require_rgb(beton)
    if SEGMENTS not in beton.more:
        cure = "write it with dataprep/write_ffcv.py voc-segmentation or ade20k"
        raise ValueError(f"{path} has no field {SEGMENTS}, needed for linear_segmentation; {cure}")
    return beton


class _Head:
    """The frozen maps, the layer behind them, its optimizer, and how far they are."""

    def __init__(self, encoder: nn.Module, splits: Splits, config: Config) -> None:
        self._splits, self._config = splits, config
        self.maps = maps_of(encoder, cuts=False).to(splits.device).eval().requires_grad_(False)
        channels = map_sizes(self.maps)[-1].channels
        classifier = nn.Conv2d(channels, splits.num_classes, 1)
        nn.init.normal_(classifier.weight, std=0.01, generator=torch.Generator().manual_seed(config.seed))
        nn.init.constant_(classifier.get_parameter("bias"), 0.0)
        self.layer = nn.Sequential(nn.BatchNorm2d(channels), classifier)
        self.layer.to(splits.device).train()
        synchronise(self.layer, splits.device)
        learned = self.layer.parameters()
        self._optimizer = torch.optim.AdamW(learned, lr=config.lr, weight_decay=config.weight_decay)
        self._gradients = GradientSum(self.layer)
        self._beton = _opened(splits.beton("train"))
        self._per_epoch = batches_per_epoch(self._beton.num_samples, config.batch)
        self._step = 0
        self._losses = torch.zeros(-(-config.steps // self._per_epoch), dtype=torch.float64, device=splits.device)

    @property
    def curve(self) -> list[float]:
        """The mean loss of each pass over the training images, the last of which may be short."""
        ends = torch.arange(1, len(self._losses) + 1) * self._per_epoch
        counts = ends.clamp_max(self._config.steps) - (ends - self._per_epoch)
        found: list[float] = (self._losses.cpu() / counts).tolist()
        return found

    def scores(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to scores (B, K, H, W)."""
        with torch.no_grad():
            last = self.maps(images)[-1].to(torch.float32)
        scores: Tensor = F.interpolate(self.layer(last), images.shape[2:], mode="bilinear", align_corners=False)
        return scores

    def run(self, work: Work) -> None:
        """All steps, from the state that `work` has."""
        config, device = self._config, self._splits.device
        if before := work.load():
            self._load(before)
        with closing(self._crops()) as batches:
            for scenes, classes in batches:
                for group in self._optimizer.param_groups:
                    group["lr"] = config.lr * config.rate(self._step)
                self._gradients.clear()
                loss = self._loss(as_input(scenes.to(device), self._splits.normalise), classes.to(device))
                loss.backward()
                self._gradients.finish()
                self._optimizer.step()
                self._losses[self._step // self._per_epoch] += distributed.sum_over_ranks(loss.detach())
                self._step += 1
                work.beat(self._step, config.steps)
                if self._step % LOOK_EVERY == 0 or self._step == config.steps:
                    self._look()
                    work.save_if_due(self._step, self.state)
                if self._step < config.steps:
                    work.leave_if_asked(self._step, self.state)
        self.layer.eval()

    def _crops(self) -> Generator[tuple[Scenes, Tensor], None, None]:
        """The batches of the steps that are left, each once; the loader draws by seed and step alone."""
        config, splits = self._config, self._splits
        drawn = CropSettings(config.batch, config.crop, config.scales, config.hflip_p, config.seed)
        pinned = splits.device.type == "cuda"
        loader = CropLoader(splits.data, self._beton, drawn, distributed.rank(), distributed.world_size(), pinned)
        return loader.batches(self._step, config.steps, splits.workers)

    def _loss(self, images: Tensor, classes: Tensor) -> Tensor:
        """This rank's part of the mean over all pixels of the global batch that have a class."""
        num = distributed.sum_over_ranks((classes != VOID).sum().to(torch.float64)).clamp_min(1)
        total = F.cross_entropy(self.scores(images), classes.long(), ignore_index=VOID, reduction="sum")
        return (total / num).to(torch.float32)

    def _look(self) -> None:
        epoch = (self._step - 1) // self._per_epoch
        loss = float(self._losses[epoch])
        require(math.isfinite(loss), "lr", self._config.lr, f"a smaller rate: it diverged by step {self._step}")
        if self._step % max(LOOK_EVERY, self._config.steps // 10) < LOOK_EVERY:
            mean = loss / (self._step - epoch * self._per_epoch)
            log.info("linear segmentation: step %d/%d, loss %.3f", self._step, self._config.steps, mean)

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        layer, optimizer = self.layer.state_dict(), self._optimizer.state_dict()
        return {"step": self._step, "layer": layer, "optimizer": optimizer, "losses": self._losses.cpu()}

    def _load(self, state: dict[str, Any]) -> None:
        self._step = int(state["step"])
        self.layer.load_state_dict(state["layer"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._losses.copy_(state["losses"])


@torch.no_grad()
def _measure(head: _Head, splits: Splits, config: Config, val: Beton, heard: Callable[[], None]) -> NDArray[np.int64]:
    """How many pixels of each class (rows) were taken for each (columns), over all validation images."""
    num = splits.num_classes
    counts = torch.zeros(num * num, dtype=torch.int64)
    own = shard(val.num_samples, distributed.rank(), distributed.world_size())
    with closing(whole_scenes(splits.data, val, own, config.crop, LONGEST * config.crop, splits.workers)) as scenes:
        for one in scenes:
            sample, (height, width) = int(one.samples[0]), one.sizes[0]
            scores = head.scores(as_input(one.to(splits.device), splits.normalise))[:, :, :height, :width]
            stored = int(val.heights[sample]), int(val.widths[sample])
            scores = F.interpolate(scores, stored, mode="bilinear", align_corners=False)
            said = scores[0].argmax(0).cpu()
            truth = torch.from_numpy(decode_segments(val.field_bytes(SEGMENTS, sample), *stored).copy())
            known = truth != VOID
            counts += torch.bincount(truth[known].long() * num + said[known], minlength=num * num)
            heard()
    found: NDArray[np.int64] = distributed.sum_over_ranks(counts).view(num, num).numpy()
    return found
