"""The table of the recipes' networks says what counting them says, and is asked for nothing that it does not know."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from vicreg import methods
from vicreg.config import ModelConfig, OptimizerConfig, PretrainConfig
from vicreg.cost import counted, counting, evaluations
from vicreg.cost.estimate import estimate
from vicreg.cost.flops import step_flops
from vicreg.method import UNKNOWN_DATA, TrainingData

LATER = "write the table anew: python -m vicreg.cost.counted"


def _recipe(name: str) -> PretrainConfig:
    return next(found[name].pretrain for m in methods.names() if name in (found := methods.load(m).RECIPES))


def _counts(config: PretrainConfig, data: TrainingData) -> tuple[object, ...]:
    on_cpu, on_gpu = (counting.kept(config, half, bool(half), data) for half in (None, torch.bfloat16))
    return counting.sizes(config, data), counting.arithmetic(config, data), on_cpu, on_gpu


def _said(config: PretrainConfig, data: TrainingData) -> tuple[object, ...]:
    on_cpu, on_gpu = (counted.kept(config, half, bool(half), data) for half in (None, torch.bfloat16))
    return counted.sizes(config, data), counted.arithmetic(config, data), on_cpu, on_gpu


@pytest.mark.parametrize("name", ["digits", "cifar10-moco-v2-plus", "digit-captions"])
def test_the_table_says_what_is_counted(name: str) -> None:
    config = _recipe(name)
    assert _said(config, UNKNOWN_DATA) == _counts(config, UNKNOWN_DATA), LATER


@pytest.mark.slow
def test_the_whole_table_is_what_is_counted() -> None:
    assert counted.as_text(counted.count_recipes()) == counted.TABLE.read_text(), LATER


def _no_counting(*_: object) -> object:
    raise AssertionError("counted")


def test_recipes_are_estimated_without_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_sizes", "_arithmetic", "_kept"):
        monkeypatch.setattr(counted, name, _no_counting)
    for method in methods.names():
        for name, recipe in methods.load(method).RECIPES.items():
            if "vit" in recipe.pretrain.model.encoder_b:
                continue
            for on_gpu in (False, True):
                assert estimate(recipe.pretrain, 1, on_gpu).memory_bytes > 0, name
            assert step_flops(recipe.pretrain, 8) > 0
    changed = replace(_recipe("digits"), optimizer=OptimizerConfig(base_lr=0.7))
    changed = replace(changed, train=replace(changed.train, global_batch=24, epochs=3, micro_batch=4))
    assert estimate(changed, 2, False, data=TrainingData(1437, 10)).activations_bytes > 0
    with pytest.raises(AssertionError, match="counted"):
        estimate(replace(changed, model=replace(changed.model, expander="64-64")), 2, False)


def test_what_depends_on_the_data_is_counted_for_them() -> None:
    published = _recipe("cifar10-pirl")
    few, many = (estimate(published, 1, False, data=TrainingData(num, 10)).weights_bytes for num in (1_000, 2_000))
    dims = int(published.model.expander.rpartition("-")[2])
    assert many - few == 1_000 * dims * 4  # one bank
    supcon = replace(_recipe("cifar10-supcon"), model=ModelConfig("resnet18", True, "8-8"))
    with pytest.raises(ValueError, match="learns from classes"):
        estimate(supcon, 1, False, data=TrainingData(1_000, 0))
    with pytest.raises(ValueError, match="learns from classes"):
        estimate(_recipe("cifar10-supcon"), 1, False, data=TrainingData(1_000, 0))


@pytest.mark.parametrize("name", ["digits", "cifar10-cmc"])
def test_the_table_of_encoders_says_what_is_counted(name: str) -> None:
    config = _recipe(name)
    size = config.data.image_size
    assert evaluations.forward_flops(config.model, size) == evaluations.counted_flops(config.model, size) > 0
    assert evaluations.forward_flops(config.model, 48) == evaluations.counted_flops(config.model, 48)


@pytest.mark.slow
def test_the_whole_table_of_encoders_is_what_is_counted() -> None:
    there = json.loads(evaluations.TABLE.read_text())
    assert there == evaluations.count_recipes(), "write it anew: python -m vicreg.cost.evaluations"
