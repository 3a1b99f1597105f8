"""What holds for every file in vicreg/methods, whatever it learns: the seam's contract."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.ranks import run_ranks
from vicreg import checkpoint, methods
from vicreg.config import OptimizerConfig, PretrainConfig
from vicreg.config_json import to_json
from vicreg.cost.estimate import estimate
from vicreg.cost.flops import step_flops
from vicreg.data.loaders import open_views
from vicreg.exchange.encoder_file import encoder_path, load_encoder
from vicreg.method import Inputs, Method, Progress, TrainingData
from vicreg.presets import DIGITS
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.schema import SCHEMA
from vicreg.training.learner import Learner
from vicreg.training.train import CHECKPOINTS, Outcome, train

METHODS = methods.names()
CPU = torch.device("cpu")
BATCH, NUM_STEPS = 32, 5
FEWER: dict[str, dict[str, float]] = {
    "cpc_v2": {"grid": 2, "first_ahead": 1, "last_ahead": 1, "context_dims": 16},
    "pirl": {"num_negatives": 300},
    "cmc": {"num_negatives": 300},
    "swav": {"num_prototypes": 40, "queue_from_epoch": 0.0, "rest_steps": 2},
}
"""What makes a step longer without making it another one."""
GENTLER = {"lars": 1.0, "sgd": 0.1, "adamw": 1e-3}
DATA = TrainingData(num_samples=1437, num_classes=10)


def small(method: str, digits: Path, precision: str = "float32", **train: Any) -> PretrainConfig:
    """The method's first recipe on digits of 16 px with a narrow encoder."""
    config = next(iter(methods.load(method).RECIPES.values())).pretrain
    views = tuple(
        dataclasses.replace(view, image_size=view.image_size and (8 if view.count > 2 else 16)) for view in config.views
    )
    paths = {"train": str(digits / "train.beton"), "val": str(digits / "val.beton")}
    # Among many rows of a random queue a difference in what was learned would not be seen.
    shorter = {"queue_length": 16 * BATCH} if hasattr(config.method, "queue_length") else {}
    return dataclasses.replace(
        config,
        method=dataclasses.replace(config.method, **(FEWER.get(method, {}) | shorter)),
        data=dataclasses.replace(DIGITS, image_size=16, eval_resize=16, **paths),
        views=views,
        model=dataclasses.replace(config.model, encoder="resnet10-narrow", small_images=True, expander="48-48"),
        # Rounding grows with every step, and with its length, which AdamW does not take from the gradient.
        optimizer=dataclasses.replace(
            config.optimizer,
            base_lr=(0.001 if precision == "float32" else 0.1) * GENTLER[config.optimizer.name],
            warmup_epochs=0.0,
        ),
        train=dataclasses.replace(
            config.train, epochs=1, global_batch=BATCH, precision=precision, log_every_steps=1, **train
        ),
    )


def _learned(config: PretrainConfig) -> tuple[list[dict[str, float]], dict[str, Tensor], dict[str, Tensor]]:
    """Terms of some steps, the gradient of the first, and the state after them."""
    torch.set_num_threads(1)
    learner = Learner.build(config, CPU, DATA)
    loader = open_views(
        config.data,
        Path(config.data.train),
        config.views,
        seed=config.train.seed,
        global_batch=BATCH,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        device=CPU,
        workers=1,
    )
    terms, first = [], {}
    for step, batch in zip(range(NUM_STEPS), loader.batches(0), strict=False):
        progress = Progress(step, 100, loader.num_batches)
        if step == 0:
            first = _gradient(learner, batch, progress)
        terms.append(learner.report(step, learner.step(batch, progress, distributed.rank())))
    loader.close()
    return terms, first, {name: value.detach().clone() for name, value in learner.method.state_dict().items()}


def _gradient(learner: Learner, batch: Any, progress: Progress) -> dict[str, Tensor]:
    """The gradient of the global batch, without a step."""
    before = {name: value.clone() for name, value in learner.method.state_dict().items()}
    learner.gradients.clear()
    views = [learner._prepare(batch, view) for view in range(len(batch.views))]
    learner.method(Inputs(views, batch.labels, batch.samples), progress)["loss"].backward()
    learner.gradients.finish()
    found = {name: p.grad.clone() for name, p in learner.method.named_parameters() if p.grad is not None}
    learner.method.load_state_dict(before)
    return found


def _apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    one, other = (torch.cat([t.double().flatten() for t in tensors.values()]) for tensors in (first, second))
    return float((one - other).norm() / other.norm())


def _all_learned(configs: list[PretrainConfig]) -> list[Any]:
    return [_learned(config) for config in configs]


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_ranks_learn_what_one_process_learns(digits_folder: Path, tmp_path: Path, method: str, num_ranks: int) -> None:
    tolerances = {"float32": 1e-5, "float64": 1e-9}
    if method == "cmc":  # digits are grey: in float32 the half that sees a and b would see their rounding alone
        del tolerances["float32"]
    configs = [small(method, digits_folder, precision) for precision in tolerances]
    on_ranks = run_ranks(_all_learned, num_ranks, tmp_path, configs)  # the start of a rank takes longer than its steps
    for (precision, tolerance), config, others in zip(tolerances.items(), configs, on_ranks, strict=True):
        terms, gradient, state = _learned(config)
        other_terms, other_gradient, other_state = others
        assert len(terms) == NUM_STEPS
        for other, alone in zip(other_terms, terms, strict=True):
            assert other["loss"] == pytest.approx(alone["loss"], rel=tolerance, abs=tolerance)
        assert _apart(other_state, state) < tolerance
        if precision == "float64":  # in float32 rounding alone moves a first gradient by 1e-3, on any number of ranks
            assert _apart(other_gradient, gradient) < tolerance


def _train(config: PretrainConfig, run: Path, until: int = 10**6) -> Outcome:
    run.mkdir(exist_ok=True)
    return train(config, run, Placement(0, 1), lambda step: step >= until, Console(quiet=True))


@pytest.mark.parametrize("method", METHODS)
def test_stop_and_resume_end_in_the_same_bits_and_the_encoders_are_kept(
    digits_folder: Path, tmp_path: Path, method: str
) -> None:
    config = dataclasses.replace(small(method, digits_folder), optimizer=OptimizerConfig(base_lr=0.5))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, global_batch=256))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _train(config, whole) is Outcome.FINISHED
    assert _train(config, parts, until=2) is Outcome.STOPPED
    assert _train(config, parts) is Outcome.FINISHED
    states = [checkpoint.load(checkpoint.list_checkpoints(run / CHECKPOINTS)[-1]) for run in (whole, parts)]
    assert states[0]["step"] == states[1]["step"] == 5
    for part in ("method", "optimizer"):
        _assert_same(states[0][part], states[1][part], part)
    for number, name in enumerate(_build(config).encoders):
        assert load_encoder(encoder_path(whole, name if number else ""))


def _assert_same(first: Any, second: Any, name: str) -> None:
    if isinstance(first, Tensor):
        assert torch.equal(first, second), name
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), name
        for key in first:
            _assert_same(first[key], second[key], f"{name}.{key}")
    else:
        assert first == second, name


def _build(config: PretrainConfig) -> Method:
    torch.manual_seed(0)
    return methods.build(config, DATA)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_seam_asks_for_is_there(digits_folder: Path, tmp_path: Path, method: str) -> None:
    config = small(method, digits_folder)
    built, file = _build(config), methods.load(method)
    names = list(built.encoders)
    assert [built.get_submodule("encoder" if name == names[0] else f"encoder_{name}") for name in names] == list(
        built.encoders.values()
    )
    learner = Learner.build(config, CPU, DATA)
    views = [torch.randn(8, 3, view.image_size, view.image_size) for view in config.each_view]
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
    assert {way.view for way in built.passes()} <= set(range(len(config.each_view)))
    for way in built.passes():
        assert way.network(views[way.view]).ndim == 2
    cost = estimate(config, 2, on_gpu=False, data=DATA)
    assert min(cost.memory_bytes, cost.loss_bytes, cost.traffic_bytes, step_flops(config, 8)) > 0
    assert cost.weights_bytes == sum(t.nbytes for t in [*built.parameters(), *built.buffers()])


@pytest.mark.parametrize("method", METHODS)
def test_its_recipes_say_where_they_come_from(method: str) -> None:
    for name, published in methods.load(method).RECIPES.items():
        assert published.source, name
        assert published.expected, name
        assert published.pretrain.method.name == method
        assert methods.read_config(to_json(published.pretrain), SCHEMA) == published.pretrain


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_a_step_that_is_left_out_stays(digits_folder: Path, method: str, value: float) -> None:
    config = small(method, digits_folder)
    learner = Learner.build(config, CPU, DATA)
    views = [torch.randn(8, 3, view.image_size, view.image_size) for view in config.each_view]
    labels = torch.arange(8)
    learner.learn(Inputs(views, labels, labels), Progress(1, 10, 5))
    before = {name: tensor.clone() for name, tensor in learner.method.state_dict().items()}
    for view in (views[0], views[-1]):  # not every pixel of a view need be looked at
        view[3, 1, 5, 5] = value
    learner.learn(Inputs(views, labels, labels), Progress(2, 10, 5))
    assert learner.guard.skipped == 1
    _assert_same(dict(learner.method.state_dict()), before, method)
    learner.learn(Inputs([torch.randn_like(v) for v in views], labels, labels), Progress(3, 10, 5))
    assert all(tensor.isfinite().all() for tensor in learner.method.state_dict().values())
    weight = next(name for name, _ in learner.method.named_parameters() if name.startswith("encoder."))
    assert not torch.equal(learner.method.state_dict()[weight], before[weight])


def test_an_unknown_method_is_refused_with_the_valid_names() -> None:
    with pytest.raises(ValueError, match=f"method.name is 'vicrag', allowed: {', '.join(METHODS)}"):
        methods.load("vicrag")
