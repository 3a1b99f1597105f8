"""Killed workers, killed parents, signals, full disks: never a hang, never a file at the final name."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataprep.beton.contract import manifest_path, open_beton
from dataprep.sources import class_folders as sources
from dataprep.write_ffcv import main
from dataprep.writing.beton_file import BetonFile
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import WriteError, WriteProgress, write_beton
from disk.whole_files import partial_path
from tests.dataprep.raw_images import encoded, picture

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 600


@pytest.fixture(scope="module")
def slow_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 links to one large photo: seconds of work as jpg."""
    root = tmp_path_factory.mktemp("slow")
    (root / "photo.jpg").write_bytes(encoded(picture(0, 1600, 1200)))
    for name in ("a", "b"):
        (root / "raw" / name).mkdir(parents=True)
        for number in range(NUM_IMAGES // 2):
            (root / "raw" / name / f"{number:04d}.jpg").symlink_to(root / "photo.jpg")
    return root / "raw"


def children(pid: int) -> list[int]:
    """Living child processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers_of(pid: int) -> list[int]:
    """The encoder processes among them."""
    found = [child for child in children(pid) if is_running(child)]
    return [
        child for child in found if b"dataprep.writing.encoder_process" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def is_running(pid: int) -> bool:
    """Does a process run (and is no zombie)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize(("num_done", "name"), [(1, "SIGKILL"), (100, "SIGKILL"), (40, "SIGSEGV")])
def test_a_killed_worker_is_an_error_within_seconds(slow_tree: Path, tmp_path: Path, num_done: int, name: str) -> None:
    killed_s = 0.0

    def kill_one(progress: WriteProgress) -> None:
        nonlocal killed_s
        if progress.num_done == num_done:
            os.kill(workers_of(os.getpid())[0], signal.Signals[name])
            killed_s = time.monotonic()

    source = sources.folder(slow_tree)
    with pytest.raises(WriteError, match=rf"encoder process \d+ was ended by {name}.*while it held the \d+ images a/"):
        write_beton(source, tmp_path / "x.beton", WritePlan("jpg"), num_workers=2, report=kill_one)
    assert 0 < time.monotonic() - killed_s < 5
    assert list(tmp_path.iterdir()) == []
    assert workers_of(os.getpid()) == []


def start(tree: Path, out: Path, **options: object) -> subprocess.Popen[str]:
    """The command at work, its first samples written."""
    command = [sys.executable, "dataprep/write_ffcv.py", "folder", "--root", str(tree), "--out", str(out)]
    command += ["--write-mode", "jpg", "--num-workers", "2"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )
    wait_for(lambda: any(path.stat().st_size > 0 for path in out.glob(".*.partial")), 30)
    wait_for(lambda: len(workers_of(process.pid)) == 2, 10)
    return process


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_cleans_up(slow_tree: Path, tmp_path: Path, name: str, code: int) -> None:
    process = start(slow_tree, tmp_path)
    workers = workers_of(process.pid)
    process.send_signal(signal.Signals[name])
    _, errors = process.communicate(timeout=10)
    assert process.returncode == code
    assert errors == f"stopped by {name}; no unfinished file was left\n"
    assert list(tmp_path.iterdir()) == []
    assert not any(is_running(worker) for worker in workers)


def test_a_killed_parent_takes_its_workers_along_and_the_next_write_clears_up(slow_tree: Path, tmp_path: Path) -> None:
    process = start(slow_tree, tmp_path)
    workers = workers_of(process.pid)
    process.kill()
    process.communicate(timeout=10)
    wait_for(lambda: not any(is_running(worker) for worker in workers), 10)
    target = tmp_path / "train.beton"
    assert [path.name for path in tmp_path.iterdir()] == [
        partial_path(target).name.replace(str(os.getpid()), str(process.pid))
    ]
    write_beton(sources.folder(slow_tree), target, WritePlan("jpg", limit=3), num_workers=0)
    assert sorted(tmp_path.iterdir()) == [target, manifest_path(target)]


def test_a_living_writer_of_the_same_file_is_named(slow_tree: Path, tmp_path: Path) -> None:
    process = start(slow_tree, tmp_path)
    with pytest.raises(WriteError, match=f"process {process.pid} is writing"):
        write_beton(sources.folder(slow_tree), tmp_path / "train.beton", WritePlan("jpg", limit=3), num_workers=0)
    process.terminate()
    process.communicate(timeout=10)


def test_a_full_disk(slow_tree: Path, tmp_path: Path) -> None:
    limit = 8 << 20
    process = start(slow_tree, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    [message] = errors.splitlines()
    assert f"cannot write {tmp_path / 'train.beton'}: File too large" in message
    assert re.search(r"about [1-9]\d*\.\d MB are needed, [\d,]+\.\d MB are free now; make room on the disk of", message)
    assert message.endswith("or choose another --out or a lower --max-resolution")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["append", "finish"])
def test_no_space_left_leaves_the_old_file(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    target = tmp_path / "out" / "x.beton"
    write_beton(sources.folder(tree), target, WritePlan("passthrough"), num_workers=0)
    old = target.read_bytes(), manifest_path(target).read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(BetonFile, method, full)
    with pytest.raises(WriteError, match=r"No space left on device; .* needed|not even .*; make room on the disk of"):
        write_beton(sources.folder(tree), target, WritePlan("raw"), num_workers=1)
    assert (target.read_bytes(), manifest_path(target).read_bytes()) == old
    assert len(list(target.parent.iterdir())) == 2


def test_no_space_for_a_folder_names_the_disk(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(WriteError) as error:
        write_beton(sources.folder(tree), tmp_path / "a" / "b" / "x.beton", WritePlan("raw"), num_workers=0)
    assert f"cannot write {tmp_path}/a/b/x.beton: {os.strerror(errno.EDQUOT)}; not even its first bytes" in str(
        error.value
    )
    assert f"make room on the disk of {tmp_path} (or in your quota" in str(error.value)


def test_progress_that_nobody_reads_any_more_is_no_fault_of_the_disk(tree: Path, tmp_path: Path) -> None:
    def closed(progress: WriteProgress) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        write_beton(sources.folder(tree), tmp_path / "x.beton", WritePlan("raw"), num_workers=0, report=closed)
    assert not list(tmp_path.glob("*.beton*")) + list(tmp_path.glob(".*"))


def test_an_unwritable_place(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WriteError, match="cannot write"):
        write_beton(sources.folder(tree), tmp_path / "file" / "x.beton", WritePlan("raw"), num_workers=0)


@pytest.mark.parametrize("step", ["unlink", "replace manifest", "replace beton"])
def test_a_crash_while_publishing_never_pairs_two_writes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "out" / "x.beton"
    write_beton(sources.folder(tree), target, WritePlan("passthrough"), num_workers=0)
    real = os.replace

    def crash(source: Path, place: Path) -> None:
        if step == "replace manifest" or (step == "replace beton" and place == target):
            raise KeyboardInterrupt
        real(source, place)

    monkeypatch.setattr(os, "replace", crash)
    if step == "unlink":
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_beton(sources.folder(tree), target, WritePlan("raw"), num_workers=0)
    monkeypatch.undo()
    if target.exists():
        assert open_beton(target).modes.max() == 0
        assert '"write_mode": "passthrough"' in manifest_path(target).read_text()


def test_a_write_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    """nohup has SIGHUP ignored in what it starts."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert main(["info", str(tmp_path / "missing.beton")]) == 1
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
