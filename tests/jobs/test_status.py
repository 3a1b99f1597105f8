"""Run folders as jobs leave them, and SLURM's commands with recorded answers: what the status says of them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs import status
from jobs.watching import job_states
from jobs.watching.job_states import Queue, collect, in_our_words
from jobs.watching.job_traces import short_nodes, tail
from slurm import attempts, chain
from slurm.attempts import CANCELLED, FAILED, FINISHED, RUNNING, STOPPED, Attempt
from slurm.chain import Submitted
from slurm.task import JobSpec

ROOT = Path(__file__).parents[2]
HEADER = "JOBID|STATE|NODELIST|REASON|START_TIME|TIME|COMMAND"
SQUEUE_FIELDS = "{id}|{state}|{nodes}|{reason}|{start}|{elapsed}|/a/script"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of 10 epochs with 20 steps each."""
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    config = {"recipe": "digits", "pretrain": {"train": {"epochs": 10, "global_batch": 128}}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class FakeSlurm:
    """squeue, scontrol, sacct and scancel that answer what a test tells them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        self.queue()
        self.says("scancel", "")
        self.says("sacct", "Slurm accounting storage is disabled", exit_code=1)

    def says(self, command: str, text: str, exit_code: int = 0) -> None:
        path = self.folder / command
        text = text and text + "\n"
        path.write_text(f"#!/bin/sh\necho \"$@\" >> {self.folder}/{command}.calls\ncat <<'END'\n{text}END\n")
        if exit_code:
            path.write_text(f"#!/bin/sh\necho '{text.strip()}' >&2\nexit {exit_code}\n")
        path.chmod(0o755)

    def queue(self, *lines: str) -> None:
        self.says("squeue", "\n".join([HEADER, *lines]))

    def calls(self, command: str) -> str:
        return (self.folder / f"{command}.calls").read_text()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.setattr(job_states, "PATIENCE_S", 0.0)
    return FakeSlurm(tmp_path / "bin", monkeypatch)


def line(
    job_id: str, state: str, nodes: str = "", reason: str = "None", start: str = "N/A", elapsed: str = "0:00"
) -> str:
    return SQUEUE_FIELDS.format(id=job_id, state=state, nodes=nodes, reason=reason, start=start, elapsed=elapsed)


def submit(run: Path, *jobs: tuple[str, str, str]) -> None:
    """As slurm/chain.py keeps name, id and dependency."""
    entries = [asdict(Submitted(name, job_id, "devcluster", needs, time.time() - 60)) for name, job_id, needs in jobs]
    for entry in entries:
        del entry["is_new"]
    (run / chain.JOBS_FILE).write_text(json.dumps(entries))


def begin(run: Path, name: str, job_id: str, restart: int = 0, nodes: tuple[str, ...] = ("n1", "n2")) -> Path:
    folder = chain.job_folder(run, name)
    attempts.begin(folder, Attempt(job_id, restart, nodes, time.time() - 50))
    return folder


def end(folder: Path, outcome: str, reason: str = "", node: str = "", progress: int = -1) -> None:
    attempts.end(folder, attempts.read(folder)[-1], outcome, reason, node, progress)


def beat(folder: Path, progress: int, total: int) -> None:
    attempts.Pulse(folder, total).beat(progress, at_once=True)


def states(run: Path) -> dict[str, str]:
    return {job.name: job.state for job in collect(run)}


def notes(run: Path) -> dict[str, str]:
    return {job.name: job.note for job in collect(run)}


def test_a_running_job_shows_how_far_it_is(run: Path, slurm: FakeSlurm) -> None:
    submit(run, ("pretrain", "7", ""), ("knn", "8", "afterok:7"), ("report", "9", "afterany:8"))
    slurm.queue(line("7", "RUNNING", "n[1-2]", elapsed="50"), line("8", "PENDING", reason="Dependency"))
    beat(begin(run, "pretrain", "7"), 50, 200)
    timing = '"images_per_s": 640.0, "data_wait_share": 0.02, "step_ms_p50": 195.4, "step_ms_p95": 1240.0, "mfu": 0.4'
    timing += ', "slowest_rank": 3, "slowest_factor": 1.238'
    JobSpec("pretrain", "any", {}, 2, 2).write(chain.job_folder(run, "pretrain"))
    (run / "metrics.jsonl").write_text(f'{{"step": 49, "epoch": 2, "loss": 21.5, {timing}}}\n{{"step": 5')
    pretrain, knn, report = collect(run)
    assert (pretrain.state, pretrain.nodes, pretrain.restarts) == ("RUNNING", "n[1-2]", 0)
    assert 45 < pretrain.elapsed_s < 60
    shown = status.progress_line(pretrain.progress)
    assert shown == "epoch 3/10, step 50/200, 640 images/s, loss 21.5, 0:00:30 left"  # 150 steps of 128 images
    pace = "steps of 195 ms (95 % under 1,240), 2% waiting for data, MFU 40%, slowest rank 3 on n2: 1.24 of the median"
    assert status.pace_line(pretrain.progress) == pace
    assert pace in [line.plain for line in status._news(pretrain)]
    assert (knn.state, knn.note) == ("PENDING", "waits for pretrain")
    assert report.state == "never started"  # SLURM was asked and does not know it


def test_a_waiting_job_says_why_and_until_when(run: Path, slurm: FakeSlurm) -> None:
    submit(run, ("pretrain", "7", ""))
    slurm.queue(line("7", "PENDING", reason="Resources", start="2031-05-06T07:08:09"))
    folder = begin(run, "pretrain", "7")
    end(folder, STOPPED, "SIGUSR2: preempted", progress=12)
    (job,) = collect(run)
    assert job.note == "Resources; start expected 06 May 07:08; last: SIGUSR2: preempted"


def test_a_dead_chain_says_what_failed(run: Path, slurm: FakeSlurm) -> None:
    submit(run, ("pretrain", "7", ""), ("knn", "8", "afterok:7"), ("report", "9", "afterany:8"))
    for restart in range(3):
        folder = begin(run, "pretrain", "7", restart)
        end(folder, FAILED, "rank 1 on n2: ValueError: no such thing", "n2", progress=0)
    folder = begin(run, "report", "9")
    end(folder, FINISHED)
    assert states(run) == {"pretrain": "given up", "knn": "removed", "report": "finished"}
    assert notes(run)["pretrain"].endswith("rank 1 on n2: ValueError: no such thing")
    assert notes(run)["knn"] == "what it waited for did not finish: pretrain"


@pytest.mark.parametrize(
    ("account", "state"),
    [("CANCELLED by 0", "cancelled"), ("RUNNING", "RUNNING"), ("NODE_FAIL", "failed"), ("", "stopped")],
)
def test_sacct_tells_what_became_of_a_job_that_squeue_forgot(
    run: Path, slurm: FakeSlurm, account: str, state: str
) -> None:
    submit(run, ("pretrain", "7", ""))
    if account:
        slurm.says("sacct", f"JobID|State\n7|{account}")
    else:
        slurm.says("sacct", "Slurm accounting storage is disabled", exit_code=1)
    begin(run, "pretrain", "7")
    assert states(run) == {"pretrain": state}


def test_without_an_answer_the_files_speak(run: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.says("squeue", "slurm_load_jobs error: Unable to contact slurm controller", exit_code=1)
    submit(run, ("pretrain", "7", ""), ("knn", "8", "afterok:7"))
    beat(begin(run, "pretrain", "7"), 20, 200)
    assert states(run) == {"pretrain": "RUNNING", "knn": "SUBMITTED"}
    assert status.main([str(run)]) == 0
    assert "Unable to contact slurm controller" in " ".join(capsys.readouterr().out.split())


def test_a_silent_job_is_called_silent(run: Path, slurm: FakeSlurm) -> None:
    submit(run, ("pretrain", "7", ""))
    slurm.queue(line("7", "RUNNING", "n1", elapsed="20:00"))
    folder = begin(run, "pretrain", "7")
    beat(folder, 20, 200)
    heard = time.time() - 900
    content = json.loads((folder / attempts.HEARTBEAT_FILE).read_text()) | {"time": heard}
    (folder / attempts.HEARTBEAT_FILE).write_text(json.dumps(content))
    os.utime(folder / attempts.ATTEMPTS_FILE, (heard, heard))
    (job,) = collect(run)
    assert 890 < job.silent_s < 960
    assert "0:15:0" in text_of(run, 120)


def test_damaged_files_are_no_obstacle(run: Path, slurm: FakeSlurm) -> None:
    folder = begin(run, "pretrain", "7")
    (run / chain.JOBS_FILE).write_text('[{"name": "pre')
    (folder / attempts.HEARTBEAT_FILE).write_text("{")
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n{")
    (run / "config.json").write_text("{")
    assert [job.name for job in collect(run)] == ["pretrain"]


def test_local_jobs_live_and_die_with_their_process(run: Path) -> None:
    folder = chain.job_folder(run, "pretrain")
    command = [sys.executable, "-c", "import time; time.sleep(60)", "jobs/pretrain.py"]
    with subprocess.Popen(command) as process:
        time.sleep(0.1)
        attempts.begin(folder, Attempt(f"pid {process.pid}", 0, (socket.gethostname(),), time.time()))
        (job,) = collect(run)
        assert (job.state, job.pid) == ("RUNNING", process.pid)
        status.cancel(run, Console(quiet=True))
        assert process.wait(10) == -signal.SIGTERM
    (job,) = collect(run)
    assert (job.state, job.note) == ("stopped", "ended without a word: killed, or its machine went down")


def test_a_finished_job_is_all_done_though_its_last_beat_came_before_the_end(run: Path) -> None:
    folder = begin(run, "embed", "pid 1")
    beat(folder, 16, 100)
    end(folder, FINISHED)
    (job,) = collect(run)
    assert (job.state, status.progress_line(job.progress)) == ("finished", "100 % done")


def test_cancel_ends_what_waits_and_runs(run: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    submit(run, ("pretrain", "7", ""), ("knn", "8", "afterok:7"), ("report", "9", "afterany:8"))
    slurm.queue(line("7", "RUNNING", "n1"), line("8", "PENDING", reason="Dependency"))
    end(begin(run, "report", "9"), CANCELLED)
    assert status.main([str(run), "--cancel"]) == 0
    assert slurm.calls("scancel").split() == ["7", "8"]
    assert "pretrain: cancelled (job 7 on devcluster)" in capsys.readouterr().out


def test_logs_are_the_last_lines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begin(run, "pretrain", "pid 1")
    (folder / "rank_0.log").write_text("".join(f"line {number}\n" for number in range(100)))
    assert status.main([str(run), "--logs"]) == 0
    shown = re.findall(r"^line \d+$", capsys.readouterr().out, re.MULTILINE)
    assert shown == [f"line {number}" for number in range(60, 100)]
    with pytest.raises(SystemExit) as ended:
        status.main([str(run), "--logs", "pretrian"])
    assert ended.value.code == 1
    assert "allowed for" in capsys.readouterr().err


def test_all_runs_of_the_profile_or_a_clear_word(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    begin(run, "pretrain", "pid 1")
    assert status.main([]) == 0
    assert "runs/one" in capsys.readouterr().out
    for wrong in ([str(tmp_path)], ["--cancel"], ["--logs"]):
        with pytest.raises(SystemExit) as ended:
            status.main(wrong)
        assert ended.value.code == 1
        assert "error" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits(run: Path, slurm: FakeSlurm, width: int) -> None:
    submit(run, ("pretrain", "12345678", ""), ("linear-places205", "12345679", "afterok:12345678"))
    slurm.queue(line("12345678", "RUNNING", "gpu[001-004,017,023]", elapsed="2-03:04:05"))
    beat(begin(run, "pretrain", "12345678"), 50, 200)
    text = text_of(run, width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("RUNNING", "12345678", "linear-places205", "50/200"):
        assert word in text


def text_of(run: Path, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(status.tables(status.look([run])))
    return console.export_text()


@given(st.lists(st.integers(1, 30), unique=True, min_size=1).map(sorted), st.sampled_from(["n", "gpu-a", "node00"]))
def test_short_nodes_mean_the_same_nodes(numbers: list[int], prefix: str) -> None:
    names = [f"{prefix}{number}" for number in numbers]
    found: list[str] = []
    for part in re.findall(r"[^,\[]+(?:\[[^\]]+\])?", short_nodes(names)):
        begin_, _, ranges = part.partition("[")
        if not ranges:
            found.append(begin_)
            continue
        first, last = ranges.rstrip("]").split("-")
        found += [f"{begin_}{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    assert found == names


@given(st.text(max_size=300), st.integers(1, 5))
def test_tail_is_the_end_of_the_text(tmp_path_factory: pytest.TempPathFactory, text: str, num_lines: int) -> None:
    path = tmp_path_factory.mktemp("tail") / "log"
    path.write_text(text, encoding="utf-8", newline="", errors="replace")
    lines = tail(path, num_lines)
    assert len(lines) <= num_lines
    assert not any(set(line) & set("\x00\x07\x1b\r\n") for line in lines)


def test_sacct_words() -> None:
    words = ["COMPLETED", "CANCELLED by 12", "CANCELLED+", "TIMEOUT", "REQUEUED", "OUT_OF_MEMORY", "RUNNING"]
    assert [in_our_words(word) for word in words] == [
        FINISHED,
        CANCELLED,
        CANCELLED,
        FAILED,
        "REQUEUED",
        FAILED,
        "RUNNING",
    ]
    assert RUNNING != "RUNNING"  # an attempt that runs, and SLURM's word


def test_nothing_is_asked_where_nothing_was_submitted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert Queue.ask([run]).trouble == ""
