"""The benchmark of the methods compares like with like, and finds them all."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from benchmarks import methods as benchmark
from benchmarks.loss import embeddings
from benchmarks.small_methods import BATCH, NARROW, SIDE_PX, small
from vicreg import methods
from vicreg.config import DataConfig
from vicreg.losses.contrastive import nt_xent_loss, queue_loss
from vicreg.method import TrainingData

CPU = torch.device("cpu")


def test_the_plain_formulas_are_the_same_losses() -> None:
    pair = embeddings(12, 20, CPU)
    keys, queue = functional.normalize(pair[1].detach()), functional.normalize(torch.randn(30, 20))
    for ours, plain in [
        (nt_xent_loss(*pair, benchmark.TEMPERATURE)["loss"], benchmark.plain_nt_xent(*pair)),
        (queue_loss(pair[0], keys, queue, benchmark.TEMPERATURE)["loss"], benchmark.plain_queue(pair[0], keys, queue)),
    ]:
        torch.testing.assert_close(ours, plain)
        mine, theirs = (torch.autograd.grad(loss, pair[0])[0] for loss in (ours, plain))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_form_that_a_cpu_can_do(name: str) -> None:
    config = small(name, DataConfig(image_size=SIDE_PX, eval_resize=SIDE_PX), epochs=30)
    assert config.method.name == name
    assert (config.train.epochs, config.train.global_batch, config.optimizer.warmup_epochs) == (30, BATCH, 3)
    assert config.model.encoder == NARROW
    assert methods.build(config, TrainingData(5000, 10)).encoders
