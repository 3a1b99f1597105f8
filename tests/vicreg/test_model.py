"""Encoders by name, the small-image stem, and names and shapes of the official program."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch.overrides import TorchFunctionMode

from vicreg.expander import build_expander
from vicreg.model import NARROW, build_encoder, usual_normalisation

GOLDEN = Path(__file__).parents[1] / "golden"
OF_TORCHVISION = torchvision.models.list_models(module=torchvision.models)
CLASSIFIERS = ("fc.", "head.", "heads.head.", "classifier.", "aux1.", "aux2.", "AuxLogits.")
SMALL = [  # one of each kind, those with dropout, stochastic depth and auxiliary classifiers among them
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11"),
]


def test_names_and_shapes_are_the_official_ones() -> None:
    expected = json.loads((GOLDEN / "official_resnet50_keys.json").read_text())
    encoder = build_encoder("resnet50")
    assert encoder.num_features == expected["embedding"]
    assert {name: list(value.shape) for name, value in encoder.state_dict().items()} == expected["params"]
    expander = build_expander(2048, "8192-8192-8192")
    expected = json.loads((GOLDEN / "official_expander_keys.json").read_text())
    assert {name: list(value.shape) for name, value in expander.state_dict().items()} == expected


def test_where_the_expander_has_batch_norm() -> None:
    kinds = {
        norm: [type(layer).__name__ for layer in build_expander(8, "6-4", norm=norm)]
        for norm in ("hidden", "none", "all", "plain")
    }
    assert kinds["hidden"] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds["none"] == ["Linear", "ReLU", "Linear"]
    assert kinds["all"] == kinds["plain"] == [*kinds["hidden"], "BatchNorm1d"]
    last = build_expander(8, "6-4", norm="all")[-1]
    assert [(name, p.requires_grad) for name, p in last.named_parameters()] == [("weight", True), ("bias", False)]
    assert not list(build_expander(8, "6-4", norm="plain")[-1].parameters())


@pytest.mark.parametrize("name", ["resnet18", NARROW, "mobilenet_v3_small", "mobilenetv3_small_050", "test_vit"])
def test_features_have_the_stated_size(name: str) -> None:
    encoder = build_encoder(name).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(2, 3, 160, 160)).shape == (2, encoder.num_features)


class ParametersOnMeta(TorchFunctionMode):
    """RegNets compute their widths with tensors, which the meta device cannot do; all else takes no memory there."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_meta = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **on_meta})


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_every_network_of_torchvision_ends_in_what_its_classifier_sees(name: str) -> None:
    with ParametersOnMeta() if name.startswith("regnet") else torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("error")  # training prints nothing of torchvision's
        encoder = build_encoder(name)
        warnings.simplefilter("ignore")
        whole = torchvision.models.get_model(name, weights=None)
    size = 96 if name == "inception_v3" else 224
    seen: list[torch.Size] = []
    last = [m for m in whole.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)][-1]
    last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape))
    images = torch.zeros(2, 3, size, size, device="meta")
    encoder.to("meta").train()
    whole.to("meta").eval()(images)
    assert encoder(images).shape == (2, encoder.num_features) == seen[0][:2]
    own, all_names = encoder.state_dict().keys(), whole.state_dict().keys()
    assert own <= all_names
    assert all(missing.startswith(CLASSIFIERS) for missing in all_names - own)
    assert (
        len([missing for missing in all_names - own if missing.endswith("weight") and "aux" not in missing.lower()])
        == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, "vit_small_patch16_224", "mobilenetv3_small_050", "test_vit"])
def test_encoders_learn_and_are_deterministic_when_measured(name: str) -> None:
    size = {"vit_small_patch16_224": 224, "test_vit": 160}.get(name, 96)
    encoder = build_encoder(name).train()
    images = torch.randn(2, 3, size, size)
    features = encoder(images)
    assert features.shape == (2, encoder.num_features)
    features.square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in encoder.parameters())
    encoder.eval()
    with torch.no_grad():
        assert torch.equal(encoder(images), encoder(images))


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2", "squeezenet1_1"])
def test_the_features_of_a_training_step_are_not_dropped_out(name: str) -> None:
    """The dropout before a classifier belongs to the classifier; these networks have no other randomness."""
    encoder, images = build_encoder(name).train(), torch.randn(2, 3, 64, 64)
    assert torch.equal(encoder(images), encoder(images))


def test_published_weights_say_how_they_see_images() -> None:
    assert usual_normalisation("resnet50") == usual_normalisation("resnet18d")
    assert usual_normalisation("resnet50")[0] == (0.485, 0.456, 0.406)
    assert usual_normalisation(NARROW) is None
    for name in ("googlenet", "vit_tiny_patch16_224"):
        assert usual_normalisation(name) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


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


@pytest.mark.parametrize("name", [NARROW, "resnet18", "vit_b_16", "swin_t", "test_vit", "resnet18d"])
def test_the_first_layer_takes_the_channels_of_the_images(name: str) -> None:
    with torch.device("meta"):
        rgb, five = build_encoder(name), build_encoder(name, channels=5)
    shapes, others = ({key: value.shape for key, value in one.state_dict().items()} for one in (rgb, five))
    assert shapes.keys() == others.keys()
    changed = [key for key in shapes if shapes[key] != others[key]]
    assert len(changed) == 1
    assert (shapes[changed[0]][1], others[changed[0]][1]) == (3, 5)
    size = 160 if name == "test_vit" else 224
    assert five(torch.zeros(2, 5, size, size, device="meta")).shape == (2, five.num_features)


def test_the_small_stem_takes_the_channels_of_the_images() -> None:
    encoder = build_encoder(NARROW, small_images=True, channels=1)
    assert encoder.conv1.weight.shape[1:] == (1, 3, 3)
    features = encoder(torch.randn(4, 1, 16, 16))
    features.square().sum().backward()
    assert encoder.conv1.weight.grad.abs().sum() > 0


def test_bad_names_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"encoder is 'resnet51', allowed: .*resnet50"):
        build_encoder("resnet51")
    with pytest.raises(ValueError, match="no ResNet stem"):
        build_encoder("vit_tiny_patch16_224", small_images=True)
