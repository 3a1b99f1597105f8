"""The detector's parts beside their definitions, and its losses: those of the global batch on any number of ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from tests.ranks import run_ranks
from tests.vicreg.detection.small_detection import C4, FPN, coco_data, small_encoder, voc_data
from vicreg.config import DataConfig
from vicreg.detection.detector import Detector
from vicreg.detection.encoder_maps import MapSize, map_sizes, maps_of
from vicreg.detection.keyed_sampler import KeyedSampler
from vicreg.detection.proposals import Anchors
from vicreg.detection.regions import MASK_PX, RegionPool, mask_targets, paste_masks
from vicreg.detection.scenes import SceneLoader, as_input
from vicreg.detection.settings import Settings
from vicreg.model import build_encoder
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise


def losses_and_gradients(data: DataConfig, settings: Settings) -> dict[str, Tensor]:
    """Of one global batch: each loss, and the gradients of some layers, summed over the ranks."""
    loader = SceneLoader(
        data,
        Path(data.train),
        settings,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=1,
        pinned=False,
    )
    (scenes,) = loader.batches(3, 4)
    detector = Detector(small_encoder(), 20, settings).train()
    synchronise(detector, torch.device("cpu"), uneven=True)
    gradients = GradientSum(detector, overlaps=False)
    detector.set_keys(3, scenes.samples)
    losses = detector(as_input(scenes, lambda pixels: pixels.float() / 255 - 0.5), scenes.sizes, scenes.targets)
    sum(losses.values()).backward()
    gradients.finish()
    named = dict(detector.named_parameters())
    chosen = {name: named[name].grad for name in named if name.endswith(("0.conv1.weight", "cls_logits.weight"))}
    chosen |= {name: one.grad for name, one in named.items() if name.startswith("regions.") and one.grad is not None}
    found = {name: distributed.sum_over_ranks(loss.detach()) for name, loss in losses.items()}
    return found | {name: one.clone() for name, one in chosen.items() if one is not None}


def both(coco: DataConfig, voc: DataConfig) -> list[dict[str, Tensor]]:
    return [losses_and_gradients(coco, FPN), losses_and_gradients(voc, C4)]


def test_losses_and_gradients_are_those_of_the_global_batch(tmp_path: Path) -> None:
    coco, voc = coco_data(tmp_path / "a", 8, 2), voc_data(tmp_path / "b", 8, 2)
    for mine, reference in zip(run_ranks(both, 2, tmp_path, coco, voc), both(coco, voc), strict=True):
        assert {"proposal", "proposal_box", "class", "box"} <= mine.keys() == reference.keys()
        assert len(mine) > 10
        for name, value in reference.items():
            scale = float(value.abs().max())
            assert scale > 0, name
            torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=2e-4 * scale, msg=name)


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("resnet18", [4, 8, 16, 32], [64, 128, 256, 512]),
        ("resnet10-narrow", [4, 8, 16, 32], [16, 32, 64, 128]),
        ("test_convnext", [4, 8, 16, 32], [24, 32, 48, 64]),
    ],
)
def test_encoders_give_their_maps(name: str, strides: list[int], channels: list[int]) -> None:
    encoder = build_encoder(name)
    maps = maps_of(encoder, cuts=False)
    assert map_sizes(maps) == [MapSize(c, s) for c, s in zip(channels, strides, strict=True)]
    shapes = [tuple(one.shape) for one in maps(torch.zeros(2, 3, 64, 96))]
    assert shapes == [(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]


def test_the_maps_of_a_resnet_lead_to_its_features() -> None:
    encoder, images = build_encoder("resnet18").eval(), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(maps_of(encoder, cuts=False).eval()(images)[-1].mean((2, 3)), encoder(images))


def test_encoders_without_the_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 4, 8, 16, 32; allowed: a ResNet"):
        Detector(build_encoder("test_vit"), 3, FPN)
    with pytest.raises(ValueError, match="which head c4 needs; allowed: a ResNet"):
        Detector(build_encoder("test_convnext"), 3, C4)


def test_seeds_decide_what_is_not_the_encoders() -> None:
    encoder = small_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    same, other = (Detector(encoder, 3, replace(C4, seed=seed)) for seed in (1, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    head, others = same.regions.box_predictor.cls_score.weight, other.regions.box_predictor.cls_score.weight
    assert not torch.equal(head, others)
    assert torch.equal(head, Detector(encoder, 3, replace(C4, seed=1)).regions.box_predictor.cls_score.weight)


def test_anchors_are_centred_exact_and_float32() -> None:
    from torchvision.models.detection.image_list import ImageList

    anchors = Anchors(((32,),), ((0.5, 1.0, 2.0),))
    maps = [torch.zeros(1, 5, 2, 3, dtype=torch.bfloat16)]
    (found,) = anchors(ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)]), maps)
    assert found.dtype == torch.float32
    boxes = found.view(2, 3, 3, 4)
    for row, column, number, ratio in [(0, 0, 0, 0.5), (1, 2, 1, 1.0), (0, 2, 2, 2.0)]:
        wide, high = 32 / math.sqrt(ratio), 32 * math.sqrt(ratio)
        expected = [16 * column - wide / 2, 16 * row - high / 2, 16 * column + wide / 2, 16 * row + high / 2]
        np.testing.assert_allclose(boxes[row, column, number], expected, rtol=1e-6)


def test_samples_are_a_function_of_step_and_image() -> None:
    random = np.random.default_rng(0)
    images = [torch.from_numpy(random.integers(-1, 3, num)) for num in (60, 9, 0)]
    sampler = KeyedSampler(16, 0.25, 1)
    sampler.set_keys(5, 7, np.array([30, 31, 32]))
    positives, negatives = sampler(images)
    for one, chosen, rest in zip(images, positives, negatives, strict=True):
        assert bool((one[chosen.bool()] >= 1).all())
        assert bool((one[rest.bool()] == 0).all())
        assert int(chosen.sum()) == min(4, int((one >= 1).sum()))
        assert int(rest.sum()) == min(16 - int(chosen.sum()), int((one == 0).sum()))
    sampler.set_keys(5, 7, np.array([31, 30]))
    again = sampler([images[1], images[0]])[1]
    assert torch.equal(again[1], negatives[0])
    sampler.set_keys(5, 8, np.array([30]))
    assert not torch.equal(sampler(images[:1])[0][0], positives[0])


def test_regions_are_cut_out_of_the_map_that_fits_them() -> None:
    sizes = [MapSize(2, stride) for stride in (4, 8, 16, 32)]
    maps = [torch.randn(2, 2, 512 // size.stride, 512 // size.stride) for size in sizes]
    sides = [30.0, 60.0, 111.0, 113.0, 225.0, 230.0, 450.0, 500.0]
    boxes = torch.tensor([[3.0, 5.0, 3 + side, 5 + side] for side in sides])
    found = RegionPool(7, sizes)(maps, [boxes[:3], boxes[3:]])
    for number, side in enumerate(sides):
        level = min(max(math.floor(4 + math.log2(side / 224)), 2), 5) - 2  # detectron2's, of levels 2 to 5
        region = torch.cat([torch.tensor([[0.0 if number < 3 else 1.0]]), boxes[number][None]], dim=1)
        expected = roi_align(maps[level], region, 7, 1 / sizes[level].stride, -1, True)
        torch.testing.assert_close(found[number], expected[0])


def test_masks_come_back_from_their_boxes() -> None:
    rows, columns = torch.meshgrid(torch.arange(90), torch.arange(120), indexing="ij")
    disc = ((rows - 40) ** 2 + (columns - 60) ** 2 < 30**2).to(torch.uint8)
    square = ((rows - 50).abs() < 20).logical_and((columns - 30).abs() < 15).to(torch.uint8)
    target = {"masks": torch.stack([disc, square]), "mask_scale": torch.full((4,), 0.5)}
    boxes = torch.tensor([[30.0, 31.0, 91.0, 70.0], [10.0, 12.0, 95.0, 60.0]])
    cut = mask_targets(target, 2 * boxes, torch.tensor([0, 1]))
    assert tuple(cut.shape) == (2, MASK_PX, MASK_PX)
    pasted = paste_masks(cut, boxes, 90, 120)
    for one, mask, (left, top, right, bottom) in zip(pasted, (disc, square), boxes.int().tolist(), strict=True):
        inside = torch.zeros_like(mask)
        inside[top:bottom, left:right] = mask[top:bottom, left:right]
        shared = float((torch.from_numpy(one) & inside).sum())
        assert shared / float((torch.from_numpy(one) | inside).sum()) > 0.9
    assert tuple(mask_targets(target, boxes[:0], torch.zeros(0, dtype=torch.int64)).shape) == (0, MASK_PX, MASK_PX)


class Answers(nn.Module):
    """A head that is sure of class 2 and moves no box."""

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 4) and deltas (N, 16)."""
        logits = F.one_hot(torch.full((len(regions),), 2), 4).float() * 9
        return logits, torch.zeros(len(regions), 16)


def test_detections_are_proposals_cut_off_at_the_image() -> None:
    detector = Detector(small_encoder(), 3, C4).eval()
    detector.regions.box_predictor = Answers()
    maps = [torch.zeros(1, 16, 4, 6)]
    proposals = [torch.tensor([[-5.0, 2.0, 30.0, 99.0], [40.0, 1.0, 70.0, 20.0]])]
    (found,) = detector.regions.detect(maps, proposals, [(60, 64)])
    assert found["boxes"].tolist() == [[0, 2, 30, 60], [40, 1, 64, 20]]
    assert found["labels"].tolist() == [2, 2]
    assert bool((found["scores"] > 0.99).all())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"masks": True}, "masks is True, allowed: False with head c4"),
        ({"milestones": (4, 2)}, "milestones is"),
        ({"short_sides": (64, 48, 16)}, "short_sides is"),
        ({"longest_side": 50}, "longest_side is 50, allowed: at least the largest short side, 64"),
        ({"head": "fpn"}, "anchor_sizes is"),
        ({"lr": 0.0}, "lr is 0.0, allowed: above 0"),
    ],
)
def test_settings_that_cannot_be_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        replace(C4, **change)


def test_the_rate_warms_up_and_falls() -> None:
    settings = Settings()
    assert settings.rate(0) == pytest.approx(1 / 3)
    assert settings.rate(500) == pytest.approx(2 / 3)
    assert [settings.rate(step) for step in (1000, 17_999)] == [1.0, 1.0]
    assert settings.rate(18_000) == pytest.approx(0.1)
    assert settings.rate(22_000) == pytest.approx(0.01)
