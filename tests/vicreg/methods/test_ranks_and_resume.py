"""Every method on several ranks, stopped and gone on with: the same run, whoever computes it.

The methods go through one start of the ranks, which takes longer than the steps of one: by default one of each kind of
state, with the slow tests all.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from dataprep import write_ffcv
from tests.ranks import run_ranks
from tests.vicreg.methods.small_runs import BATCH, CASES, NUM_SAMPLES, NUM_STEPS, assert_same, data_for, small
from vicreg import checkpoint, networks
from vicreg.config import PretrainConfig
from vicreg.data.loaders import open_views
from vicreg.exchange.encoder_file import load_encoder
from vicreg.method import UNKNOWN_DATA, Inputs, Progress
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.run_files import encoder_path, read_metrics
from vicreg.training.learner import Learner
from vicreg.training.train import CHECKPOINTS, Outcome, train

pytestmark = pytest.mark.timeout(900)  # the first of the tests on ranks has the work of all
CPU = torch.device("cpu")
TO_THE_END = 10**6
OF_EACH_KIND = ("vicreg", "byol", "moco_v2", "pirl", "swav")  # nothing but weights; teacher, queue, bank, prototypes
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
Gradient = dict[str, Tensor]


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Betons of an epoch of five steps."""
    folder = tmp_path_factory.mktemp("few-digits")
    for split in ("train", "val"):
        options = ["digits", "--out", str(folder), "--split", split, "--limit", str(NUM_SAMPLES), "--num-workers", "0"]
        assert write_ffcv.main(options) == 0
        captions = ["digits", "--captions", "--out", str(folder / "captions"), "--split", split]
        assert write_ffcv.main([*captions, "--limit", str(NUM_SAMPLES), "--num-workers", "0"]) == 0
    return folder


def _gradient(config: PretrainConfig) -> Gradient:
    """Of the first global batch, on whatever ranks there are."""
    torch.set_num_threads(1)
    learner = Learner.build(config, CPU, data_for(config))
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
        others=config.other_kinds,
    )
    batch = next(iter(loader.batches(0)))
    loader.close()
    batch = batch.to(CPU)
    learner.method(Inputs(learner.views(batch), batch.labels, batch.samples), Progress(0, 100, NUM_STEPS))[
        "loss"
    ].backward()
    learner.gradients.finish()
    return {name: p.grad for name, p in learner.method.named_parameters() if p.grad is not None}


def _train(config: PretrainConfig, run: Path, until: int = TO_THE_END) -> Outcome:
    """Go on with a run, on whatever ranks there are."""
    run.mkdir(exist_ok=True, parents=True)
    rank, ranks = distributed.rank(), distributed.world_size()
    return train(
        config, run, Placement(rank, ranks, rank, ranks, cpus=1), lambda step: step >= until, Console(quiet=True)
    )


def _go_on(runs: dict[Path, PretrainConfig], until: int) -> list[Gradient]:
    """Each run up to so many steps, and before that the gradient of its first batch."""
    torch.set_num_threads(1)
    gradients = [_gradient(config) for config in runs.values()]
    for run, config in runs.items():
        _train(config, run, until)
    return gradients


def _state(run: Path) -> dict[str, Any]:
    return checkpoint.load(checkpoint.list_checkpoints(run / CHECKPOINTS)[-1])


def _apart(first: Gradient, second: Gradient) -> float:
    one, other = (torch.cat([t.double().flatten() for t in tensors.values()]) for tensors in (first, second))
    return float((one - other).norm() / other.norm())


class Runs:
    """Runs of all methods: `whole` by one process; `apart` begun by one, gone on with by two ranks and by four."""

    def __init__(self, digits: Path, folder: Path) -> None:
        self.digits, self.folder = digits, folder

    def config(self, method: str, precision: str) -> PretrainConfig:
        return small(method, self.digits, precision)

    @functools.cache  # noqa: B019  # of one module's tests
    def whole(self, method: str, precision: str) -> Path:
        run = self.folder / f"whole-{precision}" / method
        assert _train(self.config(method, precision), run) is Outcome.FINISHED
        return run

    @functools.cache  # noqa: B019
    def apart(
        self, methods: tuple[str, ...], precision: str, *parts: tuple[int, int]
    ) -> dict[str, tuple[Path, Gradient]]:
        """parts: (ranks, steps until they stop), one after the other; the gradient is the last ranks'."""
        folder = self.folder / f"apart-{precision}-{len(parts)}"
        runs = {folder / method: self.config(method, precision) for method in methods}
        gradients: list[Gradient] = []
        for ranks, until in parts:
            (folder / str(ranks)).mkdir(parents=True, exist_ok=True)
            gradients = run_ranks(_go_on, ranks, folder / str(ranks), runs, until) if ranks > 1 else _go_on(runs, until)
        return {run.name: (run, gradient) for run, gradient in zip(runs, gradients, strict=True)}


@pytest.fixture(scope="module")
def runs(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """See `Runs`."""
    return Runs(few_digits, tmp_path_factory.mktemp("runs"))


def _require_same(
    runs: Runs, methods: tuple[str, ...], method: str, precision: str, parts: tuple[tuple[int, int], ...]
) -> None:
    run, gradient = runs.apart(methods, precision, *parts)[method]
    whole = runs.whole(method, precision)
    tolerance = TOLERANCE[precision]
    losses = [[line["loss"] for line in read_metrics(each) if "loss" in line] for each in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=tolerance, abs=tolerance)
    assert len(losses[0]) == NUM_STEPS
    assert _apart(_state(run)["method"], _state(whole)["method"]) < tolerance
    if precision == "float64":  # in float32 rounding alone moves a first gradient by 1e-3, on any number of ranks
        assert _apart(gradient, _gradient(runs.config(method, precision))) < tolerance


@pytest.mark.parametrize("method", OF_EACH_KIND)
def test_two_ranks_go_on_as_one_process_would(runs: Runs, method: str) -> None:
    """With teacher, queue and bank of one process's checkpoint: gradient, losses and state of the global batch."""
    _require_same(runs, OF_EACH_KIND, method, "float64", ((1, 2), (2, TO_THE_END)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("method", CASES)
def test_one_then_two_then_four_ranks_end_as_one_process_would(runs: Runs, method: str, precision: str) -> None:
    if (method, precision) == ("cmc", "float32"):  # digits are grey: a and b would be nothing but rounding
        return
    _require_same(runs, tuple(CASES), method, precision, ((1, 1), (2, 3), (4, TO_THE_END)))


@pytest.mark.parametrize("method", CASES)
def test_stop_and_resume_end_in_the_same_bits_and_the_encoders_are_kept(
    runs: Runs, tmp_path: Path, method: str
) -> None:
    config, whole, parts = runs.config(method, "float64"), runs.whole(method, "float64"), tmp_path / "parts"
    assert _train(config, parts, until=2) is Outcome.STOPPED
    assert _train(config, parts) is Outcome.FINISHED
    states = [_state(run) for run in (whole, parts)]
    assert states[0]["step"] == states[1]["step"] == NUM_STEPS
    for part in ("method", "optimizer"):
        assert_same(states[0][part], states[1][part], part)
    for number, name in enumerate(networks.build(config, UNKNOWN_DATA).encoders):
        assert load_encoder(encoder_path(whole, name if number else ""))
