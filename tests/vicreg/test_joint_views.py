"""Both views at once give what one after the other gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.config import DataConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig
from vicreg.method import Inputs, Progress
from vicreg.methods import vicreg
from vicreg.ranks import distributed
from vicreg.training.learner import Learner

CONFIG = PretrainConfig(
    vicreg.Config(),
    DataConfig(image_size=32, eval_resize=32),
    model=ModelConfig("resnet18", small_images=True, expander="32-32-16"),
    optimizer=OptimizerConfig(base_lr=1.0),
    train=TrainConfig(global_batch=8, precision="float64"),
)


def _after_a_step(joint: bool) -> dict[str, Tensor]:
    """Loss terms, and weights, running statistics and momenta after a step on this rank's part of two views."""
    train = dataclasses.replace(CONFIG.train, joint_views=joint)
    learner = Learner.build(dataclasses.replace(CONFIG, train=train), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    views = torch.randn((2, 8, 3, 32, 32), generator=generator, dtype=torch.float64)
    views[1] += 3  # statistics of both views together would be quite different
    mine = views.chunk(distributed.world_size(), dim=1)[distributed.rank()]
    nothing = torch.zeros(0, dtype=torch.int64)
    terms = learner.method(Inputs(mine.unbind(), nothing, nothing), Progress(0, 1, 1))
    del terms["features"]  # of this rank alone
    terms["loss"].backward()
    learner.gradients.finish()
    for group in learner.optimizer.param_groups:
        group["lr"] = 1.0
    learner.optimizer.step()
    momenta = {f"momentum {n}": learner.optimizer.state[p]["momentum"] for n, p in learner.method.named_parameters()}
    return {name: value.detach() for name, value in (terms | learner.method.state_dict() | momenta).items()}


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_step_is_the_same(num_ranks: int, tmp_path: Path) -> None:
    apart = _after_a_step(False)
    joint = run_ranks(_after_a_step, num_ranks, tmp_path, True) if num_ranks > 1 else _after_a_step(True)
    assert joint.keys() == apart.keys()
    for name, value in joint.items():
        torch.testing.assert_close(value, apart[name], rtol=1e-8, atol=1e-10, msg=lambda said, name=name: name + said)


def test_the_state_has_the_same_names_and_measuring_is_untouched() -> None:
    joint = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, joint_views=True))
    first, second = (Learner.build(config, torch.device("cpu")) for config in (CONFIG, joint))
    second.load(first.state())
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    features = [learner.method.encoder.eval()(images) for learner in (first, second)]
    assert torch.equal(*features)


def test_it_compiles_as_one_graph() -> None:
    joint = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, joint_views=True))
    encoder = Learner.build(joint, torch.device("cpu")).method.encoder
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    expected = encoder(images)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), expected)
