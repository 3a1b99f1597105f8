"""The benchmark of the methods compares like with like, and finds them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.nn import functional

from benchmarks import methods as benchmark
from benchmarks.loss import embeddings
from benchmarks.methods_learn import LEARNED_FILE, learn, print_rows
from benchmarks.small_methods import BATCH, NARROW, SIDE_PX, names, small
from vicreg import networks
from vicreg.config import DataConfig
from vicreg.config_json import to_json
from vicreg.evals.features import Splits
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


@pytest.mark.parametrize("name", names())
def test_every_method_has_a_form_that_a_cpu_can_do(name: str) -> None:
    config = small(name, DataConfig(image_size=SIDE_PX, eval_resize=SIDE_PX), epochs=30)
    assert config.method.name == name
    assert (config.train.epochs, config.train.global_batch, config.optimizer.warmup_epochs) == (30, BATCH, 3)
    assert config.model.encoder == NARROW
    assert networks.build(config, TrainingData(5000, 10)).encoders


def test_what_was_learned_is_kept_and_not_mixed_with_other_settings(tmp_path: Path) -> None:
    config = small("simclr", DataConfig(image_size=SIDE_PX, eval_resize=SIDE_PX), epochs=30)
    kept = {"row": {"20-NN": 40.0}, "where": {"date": "2026-01-01"}, "config": to_json(config)}
    (tmp_path / LEARNED_FILE).write_text(json.dumps(kept))
    splits = Splits.__new__(Splits)  # nothing is measured
    assert learn(config, tmp_path, splits, minutes=0) == kept
    longer = small("simclr", config.data, epochs=31)
    with pytest.raises(ValueError, match=r"learned.json is of another configuration \(.*train.epochs: 30 -> 31"):
        learn(longer, tmp_path, splits, minutes=0)


def test_the_table_says_who_has_not_finished() -> None:
    console = Console(record=True, width=120)
    print_rows({"random weights": {"20-NN": 26.25, "effective rank": 4.6}, "swav": {}}, console)
    shown = console.export_text()
    assert "| random weights | – | 26.2 | – | 4.6 | – | – |" in shown
    assert "| swav (not finished) | – |" in shown
