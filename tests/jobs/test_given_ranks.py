"""Ranks that torchrun or Kubernetes has started: the same run as elsewhere, whoever starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from drills.faults import descendants
from slurm.given_place import Place, place
from tests.jobs.test_pretrain import ROOT, STEPS, _command, _run
from vicreg.run_files import TIMING, read_metrics

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def _results(run: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
    lines = [{name: value for name, value in line.items() if name not in TIMING} for line in read_metrics(run)]
    return torch.load(run / "encoder.pt", weights_only=True)["encoder"], lines


@pytest.mark.slow
def test_torchrun_gives_the_same_bits_and_starts_a_killed_rank_anew(digits_folder: Path, tmp_path: Path) -> None:
    assert _run(_command(digits_folder, tmp_path / "here", "--gpus", "2", "--cluster", "local")).returncode == 0
    command = _command(digits_folder, tmp_path / "given")
    process = subprocess.Popen(
        [*TORCHRUN, "--max-restarts=1", "--", *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while process.poll() is None and not any(line["step"] >= 5 for line in read_metrics(tmp_path / "given")):
        time.sleep(0.01)
    os.kill(max(pid for pid in descendants(process.pid)), signal.SIGKILL)
    said = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 0, said
    found, expected = _results(tmp_path / "given"), _results(tmp_path / "here")
    assert all(torch.equal(found[0][name], tensor) for name, tensor in expected[0].items())
    assert found[1] == expected[1]
    assert len(found[1]) == STEPS
    attempts = [json.loads(line) for line in (tmp_path / "given/jobs/pretrain/attempts.jsonl").read_text().splitlines()]
    assert attempts[-1]["outcome"] == "finished"


@pytest.mark.slow
def test_kubernetes_names_an_address_and_evaluations_follow(digits_folder: Path, tmp_path: Path) -> None:
    given = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29417", "WORLD_SIZE": "2"}
    command = [*_command(digits_folder, tmp_path / "run"), "--train.epochs", "1", "--then-eval"]
    ranks = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | given | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in (1, 0)
    ]
    other, first = (process.communicate(timeout=250)[0] for process in ranks)
    assert [process.returncode for process in ranks] == [0, 0], first
    assert (tmp_path / "run/report.html").exists()
    assert json.loads((tmp_path / "run/evals/linear/result.json").read_text())["metrics"]
    assert "report.html" in first
    assert "report.html" not in other


GIVEN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
AT = {"MASTER_ADDR": "a", "MASTER_PORT": "29500"}


def test_places_are_those_of_the_environment() -> None:
    assert place({**GIVEN, **AT}) == Place(5, 8, 1, 4)
    assert place({"RANK": "5", "WORLD_SIZE": "8", **AT}) == Place(5, 8, 0, 1)
    assert place(GIVEN) is None
    assert place({}) is None


@pytest.mark.parametrize(
    "wrong", [{"RANK": "8"}, {"RANK": "-1"}, {"LOCAL_WORLD_SIZE": "3"}, {"WORLD_SIZE": "x"}, {"MASTER_PORT": "p"}]
)
def test_places_that_cannot_be_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="as torchrun sets them"):
        place({**GIVEN, **AT, **wrong})


def test_numbers_of_ranks_are_not_asked_for_twice(digits_folder: Path, tmp_path: Path) -> None:
    command = _command(digits_folder, tmp_path / "run", "--gpus", "3", "--dry-run")
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | GIVEN | AT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.search("nodes is 1 and gpus 3, allowed: nothing else .*2 and 4", " ".join(done.stderr.split()))
