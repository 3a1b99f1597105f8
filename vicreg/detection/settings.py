"""What can be said of fine-tuning for detection; the defaults are VOC07+12's, and their sources stand beside them.

*paper* is the VICReg paper's appendix C.3, *MoCo* facebookresearch/moco's detection/configs, *detectron2* its defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vicreg.config import require


@dataclass(frozen=True)
class Settings:
    """See the module; a preset of vicreg/evals/protocols.py has COCO's."""

    head: Literal["c4", "fpn"] = "c4"
    """c4: the last stage runs on every region, with a batch norm behind it (MoCo); fpn: a feature pyramid."""
    masks: bool = False
    """Also learn and measure masks (fpn)."""
    measure: Literal["voc", "coco"] = "voc"
    """voc: average precision at an overlap of 0.5 as VOC2007's; coco: as COCO's."""
    steps: int = 24_000
    """Steps of training (paper; MoCo)."""
    milestones: tuple[int, ...] = (18_000, 22_000)
    """Steps after which the rate falls to a tenth (paper; MoCo)."""
    batch: int = 16
    """Images per step over all ranks (paper; MoCo)."""
    lr: float = 0.1
    """Learning rate (paper; MoCo has 0.02)."""
    warmup_steps: int = 1000
    """Steps in which the rate rises (paper; MoCo has 100)."""
    warmup_factor: float = 1 / 3
    """Share of the rate at the first step (paper)."""
    momentum: float = 0.9
    """Momentum of SGD (detectron2)."""
    weight_decay: float = 1e-4
    """Weight decay of all but batch norms (detectron2)."""
    rpn_weight: float = 0.2
    """Weight of the proposals' two losses (paper; MoCo has 1)."""
    short_sides: tuple[int, int, int] = (480, 800, 32)
    """Shorter side of training images in pixels: one of smallest, largest, step (MoCo; COCO's FPN begins at 640)."""
    test_short_side: int = 800
    """Shorter side of validation images in pixels (MoCo)."""
    longest_side: int = 1333
    """No side becomes longer, in pixels (detectron2)."""
    hflip_p: float = 0.5
    """Probability of a horizontal flip in training (detectron2)."""
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Sides of square anchors in pixels; with fpn one for each of its five maps (detectron2)."""
    proposals_before: tuple[int, int] = (12_000, 6_000)
    """Best proposals of an image (of a map, with fpn) before overlapping ones are removed: in training, in testing
    (detectron2; MoCo)."""
    proposals_after: tuple[int, int] = (2_000, 1_000)
    """And after it (detectron2; MoCo)."""
    pyramid: int = 256
    """Channels of the pyramid's maps, and of the mask's head (detectron2)."""
    hidden: int = 1024
    """Width of the two layers of the pyramid's box head (detectron2)."""
    regions: int = 512
    """Regions of an image from which is learned, at most a quarter of them objects (detectron2)."""
    precise_batches: int = 200
    """Training batches whose statistics batch norm has when it is measured; 0: those that it has learned (MoCo)."""
    seed: int = 0
    """Seed of the heads' first weights, of order, sizes, flips, and of the anchors and regions that are drawn."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(not self.masks or self.head == "fpn", "masks", self.masks, "False with head c4; True needs fpn")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        inside = all(step > 0 for step in self.milestones) and sorted(set(self.milestones)) == list(self.milestones)
        require(inside, "milestones", self.milestones, "ascending numbers of steps, 1 or more")
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        require(0 <= self.warmup_factor <= 1, "warmup_factor", self.warmup_factor, "0 to 1")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.rpn_weight >= 0, "rpn_weight", self.rpn_weight, "0 or more")
        low, high, step = self.short_sides
        require(1 <= low <= high and step >= 1, "short_sides", self.short_sides, "smallest, largest, step, 1 or more")
        require(self.test_short_side >= 1, "test_short_side", self.test_short_side, "1 or more")
        longest = f"at least the largest short side, {max(high, self.test_short_side)}"
        require(self.longest_side >= max(high, self.test_short_side), "longest_side", self.longest_side, longest)
        require(0 <= self.hflip_p <= 1, "hflip_p", self.hflip_p, "0 to 1")
        whole = bool(self.anchor_sizes) and all(size >= 1 for size in self.anchor_sizes)
        right = whole and (self.head == "c4" or len(self.anchor_sizes) == 5)
        require(right, "anchor_sizes", self.anchor_sizes, "numbers of 1 or more, five of them with head fpn")
        for name in ("proposals_before", "proposals_after"):
            require(all(number >= 1 for number in getattr(self, name)), name, getattr(self, name), "1 or more")
        require(self.pyramid >= 1, "pyramid", self.pyramid, "1 or more")
        require(self.hidden >= 1, "hidden", self.hidden, "1 or more")
        require(self.regions >= 4, "regions", self.regions, "4 or more")
        require(self.precise_batches >= 0, "precise_batches", self.precise_batches, "0 or more")

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step, as detectron2 warms up and falls."""
        share = float(0.1 ** sum(step >= milestone for milestone in self.milestones))
        if step >= self.warmup_steps:
            return share
        done = step / self.warmup_steps
        return share * (self.warmup_factor * (1 - done) + done)
