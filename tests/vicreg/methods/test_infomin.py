"""InfoMin: both halves of its loss beside a slow loop, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.vicreg.methods.small_steps import BATCH, learner_of, small
from vicreg.key_queue import KeyQueue
from vicreg.method import Inputs, Progress
from vicreg.networks.infomin import CELLS, InfoMin
from vicreg.patches import global_draws


def _cross_entropy(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> float:
    loss = 0.0
    for query, key in zip(functional.normalize(queries).numpy(), keys.numpy(), strict=True):
        logits = np.array([np.dot(query, other) for other in [key, *queue.numpy()]]) / temperature
        loss += (np.log(np.exp(logits).sum()) - logits[0]) / len(queries)
    return loss


def test_image_and_jigsaw_look_for_the_same_key() -> None:
    config = small("infomin", "infomin", queue_length=3 * BATCH, jigsaw_weight=0.25)
    method = learner_of(config).method
    assert isinstance(method, InfoMin)
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(BATCH, 3, size, size, generator=generator, dtype=torch.float64) for size in (16, 16, 24)]
    labels = torch.zeros(BATCH, dtype=torch.int64)
    queue = method.queues[0]
    assert isinstance(queue, KeyQueue)
    with torch.no_grad():
        query, keys = method.student(views[0]), functional.normalize(method.teacher(views[1]))
        draws = global_draws(BATCH, (CELLS**2, 3), (config.train.seed << 32) + 4, torch.device("cpu"))
        pieces = method._jigsaw()(views[2], draws)
        terms = method(Inputs(views, labels, labels), Progress(4, 10, 5))
    image, jigsaw = (_cross_entropy(rows, keys, queue.keys, 0.15) for rows in (query, pieces))
    assert terms["jigsaw_loss"].item() == pytest.approx(jigsaw, rel=1e-10)
    assert terms["loss"].item() == pytest.approx(0.75 * image + 0.25 * jigsaw, rel=1e-10)


def test_it_wants_three_views() -> None:
    config = small("infomin", "infomin", queue_length=24)
    with pytest.raises(ValueError, match="'2 of an image', allowed: 3 for infomin"):
        learner_of(dataclasses.replace(config, views=config.views[:2]))
