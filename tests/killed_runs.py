"""Commands as a user types them, a run that is killed in the middle, and whether two runs ended alike."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import torch

from vicreg import checkpoint
from vicreg.run_files import TIMING, read_metrics

ROOT = Path(__file__).parents[1]


def run_command(*command: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_and_kill(command: list[str], run: Path, step: int) -> None:
    """Start a training and kill all its ranks once it has logged a step, or a later one."""
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    while killed.poll() is None and not any(line["step"] >= step for line in read_metrics(run)):
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()


def assert_ended_alike(whole: Path, run: Path, num_steps: int) -> None:
    """The last weights and every logged number of two runs are the same to the bit."""
    ends = [checkpoint.load_newest(one / "checkpoints") for one in (whole, run)]
    assert [end["step"] for end in ends if end] == [num_steps, num_steps]
    weights, expected = (end["method"] for end in ends if end)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    lines = [[{k: v for k, v in line.items() if k not in TIMING} for line in read_metrics(one)] for one in (whole, run)]
    assert lines[0] == lines[1]
