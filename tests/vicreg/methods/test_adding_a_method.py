"""A method is two new files: a toy in folders of its own is found, trained, stopped, resumed, measured and costed.

It needs what VICReg does not: eight views of two sizes, the samples' places, labels, a teacher, a queue with a pointer,
a group of parameters at a fixed rate, parameters that are not learned.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.ranks import run_ranks
from tests.vicreg.methods.small_runs import assert_same
from vicreg import checkpoint, methods, networks
from vicreg.config import ModelConfig, OnlineConfig, OptimizerConfig, PretrainConfig, TrainConfig, ViewConfig
from vicreg.cost.estimate import estimate
from vicreg.cost.flops import step_flops
from vicreg.method import TrainingData
from vicreg.presets import DIGITS
from vicreg.ranks.distributed import Placement
from vicreg.run_files import TIMING, read_metrics
from vicreg.training.train import CHECKPOINTS, Outcome, train

METHOD = '''"""A toy: views agree with a slow teacher's, and with a queue of what it said before."""

from dataclasses import dataclass

from vicreg.config import MethodConfig
from vicreg.method_file import Term


@dataclass(frozen=True)
class Config(MethodConfig):
    """The toy's settings."""

    name: str = "toy"
    momentum: float = 0.9
    """Of the teacher."""


RECIPES = {}
TERMS = {"loss": Term("Loss", "What is to be small.", "loss"), "queue_norm": Term("Queue", "Its norm.", "queue", 2)}
'''

NETWORKS = '''"""Networks of the toy."""

import copy

import torch
from torch import nn

from vicreg.losses.forms import FormCost
from vicreg.method import LossCost, Method, ParameterGroup, Pass
from vicreg.model import build_model
from vicreg.ranks import distributed


class Toy(Method):
    def __init__(self, config, data):
        super().__init__()
        self.settings = config.method
        self.encoder, self.expander = build_model(config.model)
        self.teacher = copy.deepcopy(nn.Sequential(self.encoder, self.expander))
        self.predictor = nn.Linear(16, 16)
        self.classifier = nn.Linear(16, data.num_classes)
        self.register_buffer("queue", torch.zeros(512, 16))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("bank", torch.zeros(data.num_samples, 16))

    @property
    def encoders(self):
        return {"student": self.encoder}

    def parameter_groups(self):
        slow = list(self.predictor.parameters())
        learned = [*self.encoder.parameters(), *self.expander.parameters(), *self.classifier.parameters()]
        return [ParameterGroup(learned), ParameterGroup(slow, 0.5, follows_schedule=False, decays=False, adapted=False)]

    def forward(self, inputs, progress):
        rows = len(inputs.labels) * distributed.world_size()
        features = [self.encoder(view) for view in inputs.views]
        said = [self.predictor(self.expander(each)) for each in features]
        with torch.no_grad():
            target = self.teacher(inputs.views[0])
        self.seen = distributed.gather_rows(target), distributed.gather_rows(inputs.samples)
        own = sum((each - target).square().sum() for each in said) / rows
        own = own + nn.functional.cross_entropy(self.classifier(said[0]), inputs.labels, reduction="sum") / rows
        own = own + (said[0] - self.queue.mean(0)).square().sum() / rows
        whole = distributed.sum_over_ranks(own.detach().clone())
        features = torch.cat([each.detach() for each in features])
        return {"loss": own + (whole - own).detach(), "queue_norm": self.queue.norm(), "features": features}

    def after_step(self, progress, taken):
        for slow, fast in zip(self.teacher.parameters(), [*self.encoder.parameters(), *self.expander.parameters()]):
            slow.lerp_(fast, torch.where(taken, 1 - self.settings.momentum, 0.0).to(slow.dtype))
        rows, samples = self.seen
        places = (self.pointer + torch.arange(len(rows))) % len(self.queue)
        self.queue[places] = torch.where(taken, rows, self.queue[places])
        self.bank[samples] = torch.where(taken, rows, self.bank[samples])
        self.pointer.add_(torch.where(taken, len(rows), 0)).remainder_(len(self.queue))

    def passes(self):
        student = nn.Sequential(self.encoder, self.expander, self.predictor)
        return [Pass(self.teacher, 0, has_gradient=False), *(Pass(student, view) for view in range(8))]


def build(config, data):
    return Toy(config, data)


def networks(config):
    return f"{config.model.encoder} and a teacher"


def loss_cost(config, ranks, size):
    return LossCost("nothing much", {"only": FormCost(0, 0, 0, 1)}, 0, 0, 0)
'''


def _find_toy(folder: Path) -> None:
    for package in (methods, networks):
        if (place := str(folder / package.__name__.split(".")[1])) not in package.__path__:
            package.__path__.append(place)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "own"
    for name, text in (("methods", METHOD), ("networks", NETWORKS)):
        (folder / name).mkdir(parents=True)
        (folder / name / "toy.py").write_text(text)
    _find_toy(folder)
    yield folder
    for package in (methods, networks):
        package.__path__.pop()
        sys.modules.pop(f"{package.__name__}.toy", None)


def _config(digits: Path, precision: Any = "float32") -> PretrainConfig:
    large = ViewConfig(crop_scale=(0.4, 1.0), count=2, blur_p=0.0)
    little = ViewConfig(8, 6, crop_scale=(0.1, 0.4), blur_p=0.0)
    return PretrainConfig(
        methods.load("toy").Config(),
        data=dataclasses.replace(
            DIGITS, image_size=16, train=str(digits / "train.beton"), val=str(digits / "val.beton"), workers=1
        ),
        views=(large, little),
        model=ModelConfig("resnet10-narrow", True, "32-16"),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.02, nesterov=True, warmup_epochs=0.0),
        train=TrainConfig(epochs=1, global_batch=128, log_every_steps=1, precision=precision),
        online=OnlineConfig(every_epochs=1) if precision == "float32" else OnlineConfig(),
    )


def _train(config: PretrainConfig, run: Path, until: int = 10**6) -> Outcome:
    run.mkdir(exist_ok=True)
    return train(config, run, Placement(0, 1), lambda step: step >= until, Console(quiet=True))


def _lines(run: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name not in TIMING} for line in read_metrics(run)]


def test_it_is_found_and_listed(toy: Path) -> None:
    assert "toy" in methods.names()
    with pytest.raises(ValueError, match=r"allowed: barlow_twins, .*, toy, vicreg"):
        methods.load("toys")
    half = toy / "methods" / "half.py"
    half.write_text('"""Half a method."""\nConfig = RECIPES = None\n')
    with pytest.raises(ValueError, match=r"methods/half.py lacks TERMS; a method has Config, RECIPES, TERMS"):
        methods.load("half")
    half.write_text('"""A method without networks."""\nConfig = RECIPES = TERMS = None\n')
    sys.modules.pop("vicreg.methods.half", None)
    with pytest.raises(ValueError, match=r"networks/half.py lacks build, networks, loss_cost; networks have build,"):
        networks.load("half")


def test_it_trains_and_goes_on_to_the_same_bits(digits_folder: Path, tmp_path: Path, toy: Path) -> None:
    config = _config(digits_folder)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _train(config, whole) is Outcome.FINISHED
    assert _train(config, parts, until=3) is Outcome.STOPPED
    assert _train(config, parts, until=6) is Outcome.STOPPED
    assert _train(config, parts) is Outcome.FINISHED
    states = [checkpoint.load(checkpoint.list_checkpoints(run / CHECKPOINTS)[-1]) for run in (whole, parts)]
    assert_same(states[0], states[1], "state")
    state = states[0]["method"]
    assert state["pointer"] == 11 * 128 % 512
    assert state["bank"].any(1).sum() == 11 * 128
    assert not torch.equal(state["teacher.0.conv1.weight"], state["encoder.conv1.weight"])
    lines = _lines(whole)
    assert lines == _lines(parts)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["queue_norm"] > 0
    assert {"online_top1", "knn_top1"} <= lines[-1].keys()


def _after_some_steps(config_of: Path, digits: Path, run: Path) -> None:
    _find_toy(config_of)
    torch.set_num_threads(1)
    from vicreg.ranks import distributed

    run.mkdir(exist_ok=True)
    placement = Placement(distributed.rank(), 2, distributed.rank(), 2)
    train(_config(digits, "float64"), run, placement, lambda step: step >= 5, Console(quiet=True))


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(digits_folder: Path, tmp_path: Path, toy: Path) -> None:
    _train(_config(digits_folder, "float64"), tmp_path / "one", until=5)
    run_ranks(_after_some_steps, 2, tmp_path, toy, digits_folder, tmp_path / "two")
    one, two = (checkpoint.load(checkpoint.list_checkpoints(tmp_path / n / CHECKPOINTS)[-1]) for n in ("one", "two"))
    for name, value in one["method"].items():
        torch.testing.assert_close(two["method"][name], value, rtol=1e-8, atol=1e-10, msg=lambda s, n=name: f"{n}: {s}")


def test_what_it_takes_is_told(digits_folder: Path, toy: Path) -> None:
    config = _config(digits_folder)
    data = TrainingData(1437, 10)
    cost = estimate(config, 2, on_gpu=False, data=data)
    built = networks.build(config, data)
    teacher = sum(p.numel() for p in built.get_submodule("teacher").parameters())
    assert cost.num_parameters == sum(p.numel() for p in built.parameters()) - teacher
    assert cost.weights_bytes - cost.gradients_bytes > 4 * (teacher + 1437 * 16)
    assert cost.batch_bytes == 64 * 3 * (2 * 16**2 + 6 * 8**2) * (4 + 1)
    one_view = dataclasses.replace(config, views=(ViewConfig(count=8),))
    assert step_flops(config, 8) < step_flops(one_view, 8)
