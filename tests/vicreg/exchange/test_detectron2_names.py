"""detectron2's names of a ResNet's weights, there and back."""

from __future__ import annotations

import pytest
import torchvision.models

from vicreg.exchange.detectron2_names import from_detectron2, to_detectron2
from vicreg.model import build_encoder


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_there_and_back(name: str) -> None:
    state = build_encoder(name).state_dict()
    named = to_detectron2(state)
    assert len(named) == len(state)
    assert {"stem.conv1.weight", "stem.conv1.norm.running_var", "res2.0.conv1.weight"} <= named.keys()
    assert {"res3.0.shortcut.weight", "res5.1.conv2.norm.bias", "res4.0.shortcut.norm.weight"} <= named.keys()
    back = from_detectron2(named)
    assert back.keys() == state.keys()
    assert all(back[key] is state[key] for key in state)


def test_other_networks_have_no_place() -> None:
    with pytest.raises(ValueError, match=r"no place for stem\.features"):
        to_detectron2(torchvision.models.vgg11().state_dict())
