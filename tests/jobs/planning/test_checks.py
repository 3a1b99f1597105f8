"""A dry run calls nothing ok that cannot be, and says what ranks without GPUs get."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import pretrain
from jobs.planning import checks, recipes
from jobs.planning.checks import check_cores, check_model, node_memory_bytes
from slurm.cluster import Cluster
from slurm.task import JobSpec
from vicreg.method import UNKNOWN_DATA

HERE = Cluster("here", scheduler="local")


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """On two cores."""
    monkeypatch.setattr(checks.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def _spec(ranks: int) -> JobSpec:
    return JobSpec("pretrain", "jobs.pretrain.run_job", {}, 1, ranks)


@pytest.mark.parametrize(("memory_gb", "ranks", "fits"), [(23, 1, False), (1000, 1, True), (200, 2, False)])
def test_main_memory_is_shared_by_the_ranks_of_a_machine(memory_gb: float, ranks: int, fits: bool) -> None:
    config = recipes.recipe("imagenet-1000ep").pretrain
    needs, check = check_model(config, _spec(ranks), replace(HERE, node_memory_gb=memory_gb), UNKNOWN_DATA)
    assert needs is not None
    assert check.passed is fits
    assert fits == (needs.memory_bytes * ranks <= memory_gb * 1e9)
    assert f"{memory_gb:,.0f} GB of a machine" in check.said
    assert fits or "take --train.micro-batch" in check.said


def test_this_machine_s_memory_is_what_the_kernel_says() -> None:
    total_kb = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < node_memory_bytes(HERE) <= total_kb * 1024
    assert node_memory_bytes(Cluster("far", scheduler="slurm")) == 0


def test_ranks_without_gpus_are_said_to_be_on_cores() -> None:
    assert check_cores(_spec(1), HERE) == []
    assert check_cores(_spec(8), Cluster("far", scheduler="slurm")) == []
    (two,), (eight,) = check_cores(_spec(2), HERE), check_cores(_spec(8), HERE)
    assert (two.passed, two.said) == (True, "no GPU here: 2 CPU ranks, 1 core each")
    assert (eight.passed, eight.said[:51]) == (None, "no GPU here: 8 CPU ranks on 2 cores, 0.25 each; all")


def test_what_is_missing_is_written_by_commands_on_lines_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert pretrain.main(["--recipe", "digits", "--cluster", "local", "--gpus", "8", "--dry-run"]) == 1
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    for split in ("train", "val"):
        assert any(line.endswith(f"write_ffcv.py digits --out data/digits --split {split}") for line in lines)
    assert "this machine: 1 node, 8 CPU ranks" in shown
    assert "in capitals" not in shown
    assert pretrain.main(["--recipe", "cifar10", "--cluster", "local", "--dry-run"]) == 1
    assert "what stands in capitals is yours to say" in capsys.readouterr().out
