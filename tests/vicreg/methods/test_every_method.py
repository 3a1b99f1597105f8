"""What holds for every file in vicreg/methods, whatever it learns: the seam's contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vicreg.methods.small_runs import CASES, METHODS, assert_same, data_for, random_views, small
from vicreg import methods, networks
from vicreg.config import PretrainConfig
from vicreg.config_json import to_json
from vicreg.cost.estimate import estimate
from vicreg.cost.flops import step_flops
from vicreg.method import Inputs, Method, Progress
from vicreg.schema import SCHEMA
from vicreg.training.learner import Learner

CPU = torch.device("cpu")


def _build(config: PretrainConfig) -> Method:
    torch.manual_seed(0)
    return networks.build(config, data_for(config))


@pytest.mark.parametrize("method", CASES)
def test_what_the_seam_asks_for_is_there(digits_folder: Path, tmp_path: Path, method: str) -> None:
    config = small(method, digits_folder)
    built, file = _build(config), methods.load(config.method.name)
    names = list(built.encoders)
    assert [built.get_submodule("encoder" if name == names[0] else f"encoder_{name}") for name in names] == list(
        built.encoders.values()
    )
    learner = Learner.build(config, CPU, data_for(config))
    views = random_views(config)
    labels = torch.arange(8)
    terms = learner.method(Inputs(views, labels, labels), Progress(0, 10, 5))
    features = terms.pop("features")
    assert not features.requires_grad
    assert len(features) % 8 == 0
    assert [name for name in file.TERMS if name in terms] == list(terms)  # a term without weight may be missing
    assert next(iter(file.TERMS)) == next(iter(terms)) == "loss"
    assert all(value.ndim == 0 for value in terms.values())
    assert all(term.title and term.sentence.endswith(".") for term in file.TERMS.values())
    grouped = [parameter for group in built.parameter_groups() for parameter in group.parameters]
    assert len({id(parameter) for parameter in grouped}) == len(grouped)
    assert {way.view for way in built.passes()} <= set(range(len(views)))
    for way in built.passes():
        assert way.network(views[way.view]).ndim == 2
    cost = estimate(config, 2, on_gpu=False, data=data_for(config))
    assert min(cost.memory_bytes, cost.loss_bytes, cost.traffic_bytes, step_flops(config, 8, data_for(config))) > 0
    assert cost.weights_bytes == sum(t.nbytes for t in [*built.parameters(), *built.buffers()])


@pytest.mark.parametrize("method", METHODS)
def test_its_recipes_say_where_they_come_from(method: str) -> None:
    for name, published in methods.load(method).RECIPES.items():
        assert published.source, name
        assert published.expected, name
        assert published.pretrain.method.name == method
        assert methods.read_config(to_json(published.pretrain), SCHEMA) == published.pretrain


@pytest.mark.parametrize("value", [np.nan, 1e30, pytest.param(np.inf, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", CASES)
def test_nothing_of_a_step_that_is_left_out_stays(digits_folder: Path, method: str, value: float) -> None:
    config = small(method, digits_folder)
    learner = Learner.build(config, CPU, data_for(config))
    views = random_views(config)
    labels = torch.arange(8)
    learner.learn(Inputs(views, labels, labels), Progress(1, 10, 5))
    before = {name: tensor.clone() for name, tensor in learner.method.state_dict().items()}
    images = views[: len(config.each_view)]
    for view in (images[0], images[-1]):  # not every pixel of a view need be looked at
        view[3, 1, 5, 5] = value
    learner.learn(Inputs(views, labels, labels), Progress(2, 10, 5))
    assert learner.guard.skipped == 1
    assert_same(dict(learner.method.state_dict()), before, method)
    learner.learn(Inputs(random_views(config), labels, labels), Progress(3, 10, 5))
    assert all(tensor.isfinite().all() for tensor in learner.method.state_dict().values())
    weight = next(name for name, _ in learner.method.named_parameters() if name.startswith("encoder."))
    assert not torch.equal(learner.method.state_dict()[weight], before[weight])


def test_an_unknown_method_is_refused_with_the_valid_names() -> None:
    with pytest.raises(ValueError, match=f"method.name is 'vicrag', allowed: {', '.join(METHODS)}"):
        methods.load("vicrag")
