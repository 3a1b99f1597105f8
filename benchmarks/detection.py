"""Is the detector right, and how fast is a step of it? 64 images learned by heart, and torchvision's loop beside ours.

`python benchmarks/detection.py COCO` takes the layout of `write_ffcv.py coco-detection`; a few hundred images are
enough. A broken head or a shifted box cannot find again what it has seen hundreds of times: AP50 on the very images
that were learned must come to 0.5. The reference is torchvision's: its detector with the same body, pyramid, anchors
and regions, fed as its detection references do it, by Pillow and a DataLoader, and resizing floats inside the model.
"""

from __future__ import annotations

import copy
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.v2 import functional

from benchmarks.ratios import Ratio, print_ratios
from dataprep.beton.contract import manifest_samples, open_beton
from dataprep.sources import coco_detection
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from vicreg.config import DataConfig
from vicreg.detection.encoder_maps import map_sizes, maps_of
from vicreg.detection.proposals import RATIOS
from vicreg.detection.scenes import training_target
from vicreg.detection.settings import Settings
from vicreg.evals import detection
from vicreg.evals.detector_training import DetectorTraining
from vicreg.evals.features import Splits, open_splits
from vicreg.model import build_encoder

MIN_AP50 = 50.0
WARM_STEPS, TIMED_STEPS = 3, 8
SHARE_OF_TIME = 0.85  # for training; the rest is for what comes before and after
SMALL = Settings(
    head="fpn",
    measure="coco",
    batch=4,
    lr=0.02,
    warmup_steps=50,
    rpn_weight=1.0,
    short_sides=(160, 160, 32),
    test_short_side=160,
    longest_side=288,
    hflip_p=0.0,
    anchor_sizes=(8, 16, 32, 64, 128),
    proposals_before=(200, 200),
    proposals_after=(150, 150),
    regions=64,
    pyramid=32,
    hidden=256,
    precise_batches=32,
)


@dataclass(frozen=True)
class Detection:
    """Overfit some images, and time a step."""

    root: tyro.conf.Positional[Path]
    """Folder with train2017/ and annotations/instances_train2017.json, as COCO's archives unpack."""
    minutes: float = 10.0
    """How long the images are learned, about, on a core of its own."""
    images: int = 64
    """Images that are learned by heart."""
    encoder: str = "resnet10-narrow"
    """Encoder, with random weights."""


def learned_by_heart(command: Detection, splits: Splits, encoder: nn.Module, step_s: float, console: Console) -> Ratio:
    """AP50 of boxes on the images that were learned from."""
    steps = max(50, int(command.minutes * 60 * SHARE_OF_TIME / step_s))
    milestones = (steps * 7 // 10, steps * 9 // 10)
    start_s = time.perf_counter()
    measured = detection.evaluate(encoder, splits, replace(SMALL, steps=steps, milestones=milestones))
    said = ", ".join(f"{name} {value:.1f}" for name, value in measured.metrics.items())
    console.print(f"{steps} steps, {time.perf_counter() - start_s:.0f} s: {said}", highlight=False)
    return Ratio("AP50 on what was learned, percent", measured.metrics["ap50_box"], MIN_AP50)


def own_step_s(splits: Splits, encoder: nn.Module) -> float:
    """Seconds of a step of ours: batch, forward, backward, optimizer."""
    training = DetectorTraining(encoder, splits, SMALL)
    with closing(training.loader.batches(0, SMALL.steps)) as batches:
        return _each_s(lambda: training.learn(next(batches)), splits.device)


def torchvision_step_s(splits: Splits, encoder: nn.Module, root: Path) -> float:
    """Seconds of a step as torchvision's detection references do it."""
    body = _Body(copy.deepcopy(encoder))
    sizes = tuple((size,) for size in SMALL.anchor_sizes)
    model = FasterRCNN(
        body,
        splits.num_classes + 1,
        min_size=SMALL.short_sides[0],
        max_size=SMALL.longest_side,
        image_mean=list(splits.data.mean),
        image_std=list(splits.data.std),
        rpn_anchor_generator=AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        rpn_pre_nms_top_n_train=SMALL.proposals_before[0],
        rpn_post_nms_top_n_train=SMALL.proposals_after[0],
        box_batch_size_per_image=SMALL.regions,
    )
    model.roi_heads.box_head.fc6 = nn.Linear(SMALL.pyramid * 49, SMALL.hidden)
    model.roi_heads.box_head.fc7 = nn.Linear(SMALL.hidden, SMALL.hidden)
    model.roi_heads.box_predictor.cls_score = nn.Linear(SMALL.hidden, splits.num_classes + 1)
    model.roi_heads.box_predictor.bbox_pred = nn.Linear(SMALL.hidden, 4 * (splits.num_classes + 1))
    model.to(splits.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=SMALL.lr, momentum=SMALL.momentum, weight_decay=1e-4)
    dataset = _Photos(splits.beton("train"), root)
    batches = itertools.chain.from_iterable(
        DataLoader(
            dataset,
            SMALL.batch,
            shuffle=True,
            drop_last=True,
            num_workers=splits.workers if splits.device.type == "cuda" else 0,  # where its time is counted
            collate_fn=list,
        )
        for _ in itertools.count()
    )

    def step() -> None:
        images, targets = zip(*next(batches), strict=True)
        device = splits.device
        losses = model([one.to(device) for one in images], [{k: v.to(device) for k, v in t.items()} for t in targets])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return _each_s(step, splits.device)


def _each_s(step: Callable[[], Any], device: torch.device) -> float:
    """Median seconds of some steps, after some others; on a CPU those of the process, whoever else keeps it busy."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    passes = []
    for number in range(WARM_STEPS + TIMED_STEPS):
        start_s = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM_STEPS:
            passes.append(clock() - start_s)
    return float(np.median(passes))


class _Body(nn.Module):
    """An encoder's maps and a pyramid, as torchvision's detectors take a backbone."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.maps = maps_of(encoder, cuts=False)
        channels = [size.channels for size in map_sizes(self.maps)]
        self.pyramid = FeaturePyramidNetwork(channels, SMALL.pyramid, LastLevelMaxPool())
        self.out_channels = SMALL.pyramid

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.pyramid({str(k): one for k, one in enumerate(self.maps(images))})
        return found


class _Photos(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The files that a beton was written from, decoded by Pillow to floats, with the same objects."""

    def __init__(self, beton: Path, root: Path) -> None:
        self._paths, self._beton = [root / name for name, _ in manifest_samples(beton)], beton
        opened = open_beton(beton)
        self._samples = np.flatnonzero((opened.labels >= 0).any(axis=1)).tolist()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        opened, sample = open_beton(self._beton), self._samples[number]
        with Image.open(self._paths[sample]) as image:
            pixels = functional.pil_to_tensor(image.convert("RGB")).float() / 255
        height, width = pixels.shape[1:]
        return pixels, training_target(opened, sample, (height, width), False, False)


def ratios(command: Detection, console: Console) -> Sequence[Ratio]:
    """Both ratios, and the tables they come from."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    encoder = build_encoder(command.encoder)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.beton"
        source = coco_detection.open_split(command.root, "train")
        write_beton(source, path, WritePlan("passthrough", limit=command.images), num_workers=0)
        splits = open_splits(DataConfig(train=str(path), val=str(path)), device, 1)
        own_s, other_s = own_step_s(splits, encoder), torchvision_step_s(splits, encoder, command.root)
        console.print(f"a step of {SMALL.batch} images: {own_s:.3f} s, torchvision's {other_s:.3f} s", highlight=False)
        speed = Ratio("torchvision's step / ours, seconds", other_s / own_s, 1.2)
        return [speed, learned_by_heart(command, splits, encoder, own_s, console)]


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit code."""
    console = Console()
    print_ratios(ratios(tyro.cli(Detection, args=arguments), console), console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
