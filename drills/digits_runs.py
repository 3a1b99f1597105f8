"""Small runs on the digits, on this machine: started, waited for, and compared to the bit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from vicreg import checkpoint
from vicreg.run_files import TIMING, read_metrics

ROOT = Path(__file__).parents[1]
STEPS = 20  # 4 epochs of 5 steps
STOPPED_EXIT_CODE = 130
TIMEOUT_S = 240.0
OPTIONS = {
    "--cluster": "local",
    "--recipe": "digits",
    "--gpus": "2",
    "--data.image-size": "16",
    "--data.eval-resize": "16",
    "--model.expander": "64-64",
    "--train.epochs": "4",
    "--train.global-batch": "256",
    "--train.log-every-steps": "1",
    "--train.checkpoint-every-steps": "4",
}


@dataclass(frozen=True)
class DigitsRuns:
    """A folder with the digits as betons, and what a run of two ranks ends in when nothing happens."""

    folder: Path

    def command(self, run: Path, *more: str) -> list[str]:
        """What starts the run, and goes on with it."""
        data = {"--data.train": str(self.data / "train.beton"), "--data.val": str(self.data / "val.beton")}
        options = OPTIONS | data | {"--run": str(run)}
        return [sys.executable, "jobs/pretrain.py", *[part for pair in options.items() for part in pair], *more]

    @cached_property
    def data(self) -> Path:
        """Where the betons are."""
        for split in ("train", "val"):
            words = ["dataprep/write_ffcv.py", "digits", "--out", str(self.folder / "digits"), "--split", split]
            subprocess.run([sys.executable, *words], cwd=ROOT, env=environment(), check=True, capture_output=True)
        return self.folder / "digits"

    @cached_property
    def undisturbed(self) -> Path:
        """The run to compare with."""
        finish(self.command(self.folder / "undisturbed"))
        return self.folder / "undisturbed"

    def require_same_bits(self, run: Path) -> None:
        """AssertionError unless a run ended in the weights of the undisturbed one, and logged each step once."""
        found, expected = state(run)["method"], state(self.undisturbed)["method"]
        different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
        assert not different, f"{len(different)} of {len(expected)} tensors differ, such as {different[0]}"
        assert numbers(run) == numbers(self.undisturbed), "metrics.jsonl differs"
        assert (run / "encoder.pt").is_file(), "there is no encoder.pt"


def environment() -> dict[str, str]:
    """That of the commands: this tree's code, whatever is installed."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(
    command: list[str],
    hangup: signal.Handlers = signal.SIG_DFL,
    largest_file_bytes: int = resource.RLIM_INFINITY,
    output: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own. `hangup`: what SIGHUP does to it at first, whatever it does here."""

    def before() -> None:
        signal.signal(signal.SIGHUP, hangup)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, resource.RLIM_INFINITY))

    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=output,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=before,
    )


def finish(command: list[str]) -> str:
    """Run a command to its end; AssertionError with its words unless it ends well."""
    code, said = ended(command)
    assert code == 0, f"exit code {code}: {said[-2000:]}"
    return said


def ended(command: list[str], timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
    """Exit code (a signal's is negative) and words of a command; AssertionError with these where it hangs."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        said = process.communicate(timeout=timeout_s)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired as error:
        kill_session(process)
        raise AssertionError(f"not over within {timeout_s:.0f} s: {(error.stdout or b'')[-2000:]!r}") from error
    return process.returncode, said


def await_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the run has logged `step`, or its process is over."""
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(ValueError, OSError):
            lines = read_metrics(run)
            if lines and lines[-1]["step"] >= step:
                return
        time.sleep(0.01)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a command and to everything that it has started, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def state(run: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    found = checkpoint.load_newest(run / "checkpoints")
    assert found is not None, f"{run} has no checkpoint"
    return found


def numbers(run: Path) -> list[dict[str, float]]:
    """The metrics of a run without those that are times."""
    return [{name: value for name, value in line.items() if name not in TIMING} for line in read_metrics(run)]
