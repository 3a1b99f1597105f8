"""Betons of coloured rectangles, and settings by which a detector of them takes milliseconds a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dataprep.sources import coco_detection, voc_detection
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_detection import write_coco, write_voc
from vicreg.config import DataConfig
from vicreg.detection.settings import Settings
from vicreg.model import narrow_resnet

C4 = Settings(
    steps=4,
    milestones=(3,),
    batch=4,
    lr=0.02,
    warmup_steps=2,
    rpn_weight=1.0,
    short_sides=(48, 64, 16),
    test_short_side=64,
    longest_side=128,
    anchor_sizes=(16, 32),
    proposals_before=(60, 60),
    proposals_after=(20, 20),
    regions=8,
    pyramid=8,
    hidden=16,
    precise_batches=1,
)
FPN = replace(C4, head="fpn", masks=True, measure="coco", anchor_sizes=(8, 16, 24, 32, 64))


def voc_data(root: Path, num_train: int = 10, num_val: int = 5) -> DataConfig:
    """VOC's layout as betons, and where they are."""
    write_voc(root, {"2007_trainval": num_train, "2007_test": num_val})
    for split in ("train", "val"):
        source = voc_detection.open_split(root, split, "07")
        write_beton(source, root / "voc" / f"{split}.beton", WritePlan("passthrough"), num_workers=0)
    return _data(root / "voc")


def coco_data(root: Path, num_train: int = 10, num_val: int = 5) -> DataConfig:
    """The same of COCO's."""
    write_coco(root, {"train": num_train, "val": num_val})
    for split in ("train", "val"):
        source = coco_detection.open_split(root, split)
        write_beton(source, root / "coco" / f"{split}.beton", WritePlan("passthrough"), num_workers=0)
    return _data(root / "coco")


def _data(folder: Path) -> DataConfig:
    return DataConfig(train=str(folder / "train.beton"), val=str(folder / "val.beton"), image_size=64, eval_resize=64)


def small_encoder(width: int = 4) -> nn.Module:
    """A ResNet of four basic blocks, its features as our encoders have them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = narrow_resnet(width)
    encoder.fc = nn.Identity()
    encoder.num_features = 8 * width
    return encoder
