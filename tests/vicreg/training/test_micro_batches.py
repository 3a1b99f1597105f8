"""A batch in parts gives the step of the whole batch: loss and gradient, for every method, on any number of ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from tests.ranks import run_ranks
from tests.vicreg.methods.small_runs import WORDS
from vicreg import methods, model
from vicreg.config import PretrainConfig
from vicreg.method import Inputs, Progress, TrainingData
from vicreg.model import narrow_resnet
from vicreg.ranks import distributed
from vicreg.training import learner as learning
from vicreg.training.learner import Learner

BATCH = 12
CPU = torch.device("cpu")
NARROW = "resnet10-narrow"
State = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def _config(method: str, micro_batch: int) -> PretrainConfig:
    config = next(iter(methods.load(method).RECIPES.values())).pretrain
    shorter = {"queue_length": 4 * BATCH} if hasattr(config.method, "queue_length") else {}
    of_captions = {"encoder_b": "gru-8-12", "expander_b": "", "num_words": len(WORDS)} if config.other_kinds else {}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=16, eval_resize=16),
        views=tuple(dataclasses.replace(view, image_size=view.image_size and 16) for view in config.views),
        method=dataclasses.replace(config.method, **shorter),
        model=dataclasses.replace(config.model, encoder=NARROW, small_images=True, expander="16-16", **of_captions),
        train=dataclasses.replace(config.train, global_batch=BATCH, precision="float64", micro_batch=micro_batch),
    )


def _after_a_step(config: PretrainConfig) -> State:
    """Loss terms, gradients, and state after a step on this rank's part of the batch."""
    learner = Learner.build(config, CPU, TrainingData(100, 10, words=WORDS))
    generator = torch.Generator().manual_seed(1)
    views = [
        torch.randn((BATCH, 3, view.image_size, view.image_size), generator=generator, dtype=torch.float64)
        for view in config.each_view
    ]
    if config.other_kinds:
        views.append(torch.tensor(WORDS)[torch.randint(len(WORDS), (BATCH, 3), generator=generator)])
    own = slice(distributed.rank(), None, distributed.world_size())
    samples = torch.arange(BATCH)[own]
    gradients: dict[str, Tensor] = {}
    take = learner._take

    def keep(taken: Tensor, progress: Progress, terms: dict[str, Tensor]) -> None:
        gradients.update({name: p.grad.clone() for name, p in learner.method.named_parameters() if p.grad is not None})
        take(taken, progress, terms)

    with patch.object(learner, "_take", keep):
        terms = learner.learn(Inputs([view[own] for view in views], samples % 10, samples), Progress(0, 10, 5))
    return terms, gradients, {name: value.detach().clone() for name, value in learner.method.state_dict().items()}


def _assert_same(found: State, expected: State, tolerance: float = 1e-6) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(
                value, other[name], rtol=tolerance, atol=1e-9, msg=lambda said, name=name: name + said
            )


def _without_batch_norm() -> ResNet:
    """The narrow encoder with another norm: its images do not see each other."""
    network = narrow_resnet()
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            network.set_submodule(name, nn.GroupNorm(1, layer.num_features))
    return network


@pytest.mark.parametrize("method", methods.names())
def test_a_step_is_the_whole_batchs(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "narrow_resnet", _without_batch_norm)
    whole = _after_a_step(_config(method, 0))
    _assert_same(_after_a_step(_config(method, 5)), whole)


def _after_a_step_without_batch_norm(config: PretrainConfig) -> State:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model, "narrow_resnet", _without_batch_norm)
        return _after_a_step(config)


def test_on_two_ranks(tmp_path: Path) -> None:
    whole = _after_a_step_without_batch_norm(_config("vicreg", 0))
    _assert_same(run_ranks(_after_a_step_without_batch_norm, 2, tmp_path, _config("vicreg", 4)), whole)


def test_batch_norm_sees_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the parts had passed one after the other with their graphs: in gradients and running statistics too."""
    in_parts = _after_a_step(_config("vicreg", 4))

    class WithGraphs:
        def __init__(self, encoders: Any, size: int, statistics: object) -> None:
            for encoder in encoders:
                encoder.forward = lambda images, forward=encoder.forward: torch.cat(
                    [forward(part) for part in images.split(size)]
                )

        def begin(self) -> None:
            pass

        def finish(self, autocast: object) -> None:
            pass

    monkeypatch.setattr(learning, "MicroBatches", WithGraphs)
    _assert_same(in_parts, _after_a_step(_config("vicreg", 4)), 1e-9)


def test_dropout_is_the_same_in_both_passes() -> None:
    """Else a feature's gradient would be that of another network: a linear encoder shows it."""
    statistics = learning.RunningStatistics(nn.Sequential())
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, dtype=torch.float64), nn.Dropout(0.5))
    images = torch.randn(6, 3, 2, 2, dtype=torch.float64)
    parts = learning.MicroBatches([encoder], 2, statistics)
    parts.begin()
    features = encoder(images)
    features.sum().backward()
    parts.finish(lambda: torch.autocast("cpu", enabled=False))
    expected = ((features != 0) * 2.0).double().T @ images.flatten(1)  # kept ones are doubled
    weight = encoder[1].weight
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, expected)
    assert len({tuple((row != 0).tolist()) for row in features}) > 2  # parts are not dropped alike
    other = encoder(images)
    assert not torch.equal(other, features)


def test_what_does_not_learn_or_fits_passes_whole() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    sizes: list[int] = []
    encoder[1].register_forward_hook(lambda layer, inputs, output: sizes.append(len(output)))
    learning.MicroBatches([encoder], 4, learning.RunningStatistics(encoder))
    images = torch.randn(6, 3, 2, 2)
    with torch.no_grad():
        encoder(images)
    encoder(images[:4])
    encoder.eval()(images)
    assert sizes == [6, 4, 6]


def test_not_with_views_at_once() -> None:
    config = _config("vicreg", 4)
    with pytest.raises(ValueError, match="micro_batch is 4, allowed: 0 with joint_views"):
        Learner.build(dataclasses.replace(config, train=dataclasses.replace(config.train, joint_views=True)), CPU)
