"""Several ranks learn what one process with the whole batch learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jobs.planning.recipes import recipe
from tests.ranks import run_ranks
from vicreg.config import ModelConfig, OptimizerConfig, PretrainConfig
from vicreg.data.loaders import open_views
from vicreg.method import Progress
from vicreg.ranks import distributed
from vicreg.training.learner import Learner

NUM_STEPS = 5


def _config(digits: Path, precision: str, optimizer: str) -> PretrainConfig:
    config = recipe("digits").pretrain
    small = dataclasses.replace(config.data, train=str(digits / "train.beton"), image_size=16, eval_resize=16)
    return dataclasses.replace(
        config,
        data=small,
        model=ModelConfig("resnet10-narrow", True, "48-48"),
        # Rounding grows with every step, and with its length.
        optimizer=OptimizerConfig(name=optimizer, base_lr=0.004 if precision == "float32" else 0.1, warmup_epochs=0.0),
        train=dataclasses.replace(config.train, global_batch=32, precision=precision),
    )


def _parameters_after_some_steps(config: PretrainConfig) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    learner = Learner.build(config, cpu)
    loader = open_views(
        config.data,
        Path(config.data.train),
        config.views,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        device=cpu,
        workers=1,
    )
    terms = []
    for step, batch in zip(range(NUM_STEPS), loader.batches(0), strict=False):
        progress = Progress(step, 100, loader.num_batches)
        terms.append(learner.report(step, learner.step(batch, progress, distributed.rank())))
    loader.close()
    return terms, {name: value.detach().clone() for name, value in learner.method.state_dict().items()}


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_ranks_equal_one_process(
    digits_folder: Path, tmp_path: Path, num_ranks: int, precision: str, tolerance: float
) -> None:
    config = _config(digits_folder, precision, "lars")
    terms, state = _parameters_after_some_steps(config)
    other_terms, other_state = run_ranks(_parameters_after_some_steps, num_ranks, tmp_path, config)
    assert len(terms) == NUM_STEPS
    assert all(1 <= step["effective_rank"] <= 31 for step in terms)  # logged like every other term
    for other, alone in zip(other_terms, terms, strict=True):
        assert other["loss"] == pytest.approx(alone["loss"], rel=tolerance)
    vectors = [torch.cat([tensor.double().flatten() for tensor in one.values()]) for one in (other_state, state)]
    assert (vectors[0] - vectors[1]).norm() / vectors[1].norm() < tolerance
    if precision == "float64":  # tensor by tensor float32 would compare roundings of what is zero in truth
        assert other_terms == [pytest.approx(alone, rel=tolerance) for alone in terms]
        for name, tensor in state.items():
            assert (other_state[name] - tensor).abs().max() <= tolerance * tensor.abs().max().clamp_min(1e-3), name


def test_the_same_seed_gives_the_same_bits(digits_folder: Path) -> None:
    config = _config(digits_folder, "float32", "adamw")
    first, second = (_parameters_after_some_steps(config) for _ in range(2))
    assert first[0] == second[0]
    assert all(torch.equal(tensor, second[1][name]) for name, tensor in first[1].items())
