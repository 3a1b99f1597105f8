"""Encoders by name, the small-image stem, and names and shapes of the official program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vicreg.model import NARROW, build_encoder, build_expander

GOLDEN = Path(__file__).parents[1] / "golden"


def test_names_and_shapes_are_the_official_ones() -> None:
    expected = json.loads((GOLDEN / "official_resnet50_keys.json").read_text())
    encoder = build_encoder("resnet50")
    assert encoder.num_features == expected["embedding"]
    assert {name: list(value.shape) for name, value in encoder.state_dict().items()} == expected["params"]
    expander = build_expander(2048, "8192-8192-8192")
    expected = json.loads((GOLDEN / "official_expander_keys.json").read_text())
    assert {name: list(value.shape) for name, value in expander.state_dict().items()} == expected


@pytest.mark.parametrize("name", ["resnet18", NARROW, "mobilenet_v3_small", "vit_tiny_patch16_224", "test_resnet"])
def test_features_have_the_stated_size(name: str) -> None:
    encoder = build_encoder(name).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(2, 3, 224, 224)).shape == (2, encoder.num_features)


def test_residual_branches_begin_at_zero() -> None:
    for name in ("resnet18", "resnet18d"):
        encoder = build_encoder(name)
        assert encoder.layer2[0].bn2.weight.abs().sum() == 0
        assert encoder.bn1.weight.abs().sum() > 0


def test_small_stem_keeps_the_resolution() -> None:
    encoder = build_encoder("resnet18", small_images=True)
    seen: list[torch.Size] = []
    encoder.layer1.register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    encoder(torch.zeros(2, 3, 32, 32))
    assert seen == [torch.Size([2, 64, 32, 32])]


def test_bad_names_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"encoder is 'resnet51', allowed: .*resnet50"):
        build_encoder("resnet51")
    with pytest.raises(ValueError, match="no ResNet stem"):
        build_encoder("vit_tiny_patch16_224", small_images=True)
