"""Names of encoders as their files have them, beside those that the libraries know once they are imported."""

from __future__ import annotations

import pytest
import timm
import torchvision.models

from jobs.planning.recipes import RECIPES, recipe
from vicreg.config import ModelConfig
from vicreg.encoder_names import encoder_names, require_known
from vicreg.model import NARROW


def test_the_names_are_those_that_the_libraries_build() -> None:
    of_torchvision = set(torchvision.models.list_models(module=torchvision.models))
    assert {NARROW, *of_torchvision, *timm.list_models()} <= encoder_names()
    others = encoder_names() - of_torchvision - {NARROW}
    assert [name for name in others if not timm.is_model(name)] == []  # with those that timm has renamed


def test_every_recipe_has_encoders_that_are_known() -> None:
    for name in RECIPES:
        require_known(recipe(name).pretrain.model)


def test_a_tag_of_weights_is_no_part_of_a_name() -> None:
    require_known(ModelConfig("resnet50.a1_in1k"))


@pytest.mark.parametrize("given", [{"encoder": "resnet51"}, {"encoder": "resnet18", "encoder_b": "resnet51"}])
def test_an_unknown_name_is_refused_with_one_that_may_be_meant(given: dict[str, str]) -> None:
    option = "model.encoder-b" if "encoder_b" in given else "model.encoder"
    with pytest.raises(ValueError, match=rf"^{option} is 'resnet51', allowed: {NARROW}, .* \(did you mean resnet5"):
        require_known(ModelConfig(**given))
