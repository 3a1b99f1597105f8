"""Jobs on several processes of one machine: all run, one failure ends all, a signal reaches all, none is left over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slurm import attempts, owner
from slurm.local import JobFailed, launch
from slurm.owner import Owned, Superseded
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task

THIS = "tests.slurm.test_local"


def note_job(task: Task, stop: StopFlag, folder: str, word: str) -> None:
    """Leave a file that says who was here."""
    (Path(folder) / f"{task.rank}.json").write_text(json.dumps([word, task.world_size, task.local_rank, os.getpid()]))


def failing_job(task: Task, stop: StopFlag, folder: str, failing_rank: int, how: str) -> None:
    """Fail on one rank; the others would go on for a minute."""
    note_job(task, stop, folder, "began")
    if task.rank == failing_rank:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("this rank fails")
    time.sleep(60)


def waiting_job(task: Task, stop: StopFlag, folder: str) -> bool:
    """Wait for a stop signal, then say so."""
    note_job(task, stop, folder, "waits")
    while not stop():
        time.sleep(0.01)
    note_job(task, stop, folder, f"stopped by {stop.signal_name}")
    return False


def _spec(function: str, num_ranks: int, **arguments: object) -> JobSpec:
    return JobSpec("job", f"{THIS}.{function}", arguments, ranks_per_node=num_ranks)


def _notes(folder: Path) -> list[list[object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("?.json"))]


def _running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_every_rank_runs_the_function(tmp_path: Path, num_ranks: int) -> None:
    assert launch(_spec("note_job", num_ranks, folder=str(tmp_path), word="here"), tmp_path / "job")
    assert [attempt.outcome for attempt in attempts.read(tmp_path / "job")] == ["finished"]
    notes = _notes(tmp_path)
    assert [note[:3] for note in notes] == [["here", num_ranks, rank] for rank in range(num_ranks)]
    assert (notes[0][3] == os.getpid()) == (num_ranks == 1)


@pytest.mark.parametrize(
    ("rank", "how", "message"),
    [
        (1, "raise", r"rank 1 of 2 ended with exit code 1; its log is .*rank_1\.log"),
        (0, "raise", r"rank 0 of 2 ended with exit code 1; its error stands above"),
        (1, "kill", r"rank 1 of 2 was killed by SIGKILL"),
    ],
)
def test_one_failure_ends_all(tmp_path: Path, rank: int, how: str, message: str) -> None:
    with pytest.raises(JobFailed, match=message):
        launch(_spec("failing_job", 2, folder=str(tmp_path), failing_rank=rank, how=how), tmp_path / "job")
    last = attempts.read(tmp_path / "job")[-1]
    assert last.outcome == "failed"
    assert ("this rank fails" if how == "raise" else "SIGKILL") in last.reason
    assert not _running([int(str(note[3])) for note in _notes(tmp_path)])
    if (rank, how) == (1, "raise"):
        assert "this rank fails" in (tmp_path / "job" / "rank_1.log").read_text()


def _launcher(folder: Path) -> subprocess.Popen[bytes]:
    code = (
        f"from {THIS} import _spec; from slurm.local import launch; from pathlib import Path; "
        f"assert not launch(_spec('waiting_job', 2, folder={str(folder)!r}), Path({str(folder)!r}) / 'job')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 30
    while len(_notes_if_whole(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def _notes_if_whole(folder: Path) -> list[list[object]]:
    try:
        return _notes(folder)
    except json.JSONDecodeError:
        return []


def test_ctrl_c_reaches_every_rank_and_all_leave_well(tmp_path: Path) -> None:
    process = _launcher(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=20) == 0
    assert [note[0] for note in _notes(tmp_path)] == ["stopped by SIGINT"] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_launcher_reaches_every_rank(tmp_path: Path, number: signal.Signals) -> None:
    process = _launcher(tmp_path)
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert [note[0] for note in _notes(tmp_path)] == ["stopped by SIGTERM"] * 2


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_second_command_is_refused_and_changes_nothing(tmp_path: Path, num_ranks: int) -> None:
    process = _launcher(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Owned, match=rf"job is in use by process {process.pid} on .*; wait until it is over, or stop"):
        launch(_spec("note_job", num_ranks, folder=str(tmp_path), word="second"), tmp_path / "job")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    process.kill()
    process.wait()
    assert launch(_spec("note_job", num_ranks, folder=str(tmp_path), word="third"), tmp_path / "job")


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_whoever_is_superseded_stops_and_says_so(tmp_path: Path, num_ranks: int) -> None:
    threading.Timer(1.5, lambda: owner.claim(tmp_path / "job", "job 17, attempt 1", take_over=True)).start()
    with pytest.raises((JobFailed, Superseded)):
        launch(_spec("waiting_job", num_ranks, folder=str(tmp_path)), tmp_path / "job")
    (last,) = attempts.read(tmp_path / "job")
    assert (last.outcome, "taken over by job 17, attempt 1" in last.reason) == ("stopped", True)
    assert not _running([int(str(note[3])) for note in _notes(tmp_path)][num_ranks - 1 :] if num_ranks > 1 else [])


def test_ranks_do_not_outlive_a_killed_launcher(tmp_path: Path) -> None:
    process = _launcher(tmp_path)
    pids = [int(str(note[3])) for note in _notes(tmp_path)]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while _running(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(pids)
