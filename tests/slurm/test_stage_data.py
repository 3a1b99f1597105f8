"""Copies on the node's disk: made once, right or not there, and made anew when the source is another."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm import stage_data
from slurm.stage_data import stage

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(Path(stage_data.__file__))]
STOPS_BEFORE_FSYNC = """
import os, sys, time
from pathlib import Path
from slurm import stage_data
signs, fsync = Path(sys.argv.pop(1)), os.fsync
def pause(file):
    (signs / "paused").touch()
    while not (signs / "go").exists():
        time.sleep(0.01)
    fsync(file)
os.fsync = pause
stage_data.main()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "network" / "train.beton"
    path.parent.mkdir()
    path.write_bytes(os.urandom(3_000_000))
    path.with_name("train.beton.json").write_text("{}\n")
    path.with_name("train.txt").write_text("no part of it\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "node" / "deep"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Those that a test has started; none outlives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def _start(*command: object) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def _start_paused(tmp_path: Path, source: Path, folder: Path) -> subprocess.Popen[str]:
    """A process that has written its manifest or file, and stops before it is on the disk, until there is `go`."""
    process = _start(sys.executable, "-c", STOPS_BEFORE_FSYNC, tmp_path, source, folder)
    _wait_until(lambda: (tmp_path / "paused").exists())
    return process


def _wait_until(true) -> None:
    deadline_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def _is_waiting(process: subprocess.Popen[str]) -> bool:
    """Whether the system lists it among those that wait for a lock."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any(line.split()[1] == "->" and line.split()[5] == str(process.pid) for line in lines)


ALL = [".train.beton.json.staged", ".train.beton.staged", "train.beton", "train.beton.json"]


def test_a_copy_with_its_manifest_and_record(source: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    copy = stage(source, folder)
    place = hashlib.sha256(str(source).encode()).hexdigest()[:8]
    assert copy == folder / f"vicreg-{os.geteuid()}" / place / "train.beton"
    assert copy.read_bytes() == source.read_bytes()
    assert copy.with_name("train.beton.json").read_text() == "{}\n"
    assert _names(folder) == ALL
    assert json.loads((copy.parent / ".train.beton.staged").read_text()) == {
        "source": str(source),
        "size": 3_000_000,
        "mtime_ns": source.stat().st_mtime_ns,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    first, inode = caplog.messages, copy.stat().st_ino
    assert stage(source, folder) == copy
    assert copy.stat().st_ino == inode
    assert "0.003 GB in" in first[0]
    assert "GB/s" in first[0]
    assert caplog.messages[1:] == [f"{copy}: already there, a copy of {source}"]


def test_a_source_without_manifest(source: Path, folder: Path) -> None:
    stage(source, folder)
    source.with_name("train.beton.json").unlink()
    stage(source, folder)
    assert _names(folder) == [".train.beton.staged", "train.beton"]


def test_a_disk_without_locks_is_named_with_a_cure(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(stage_data.fcntl, "flock", fail)
    with pytest.raises(
        OSError, match=r"\.lock cannot be locked on .*: .*Function not implemented; choose another folder"
    ):
        stage(source, folder)
    assert _names(folder) == []


def test_large_blocks_and_a_rest(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_data, "BLOCK_BYTES", 1000_003)
    assert stage(source, folder).read_bytes() == source.read_bytes()


def test_equal_names_have_places_of_their_own(source: Path, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / source.name
    other.parent.mkdir()
    other.write_bytes(b"other")
    copies = [stage(path, folder) for path in (source, other)]
    assert [copy.read_bytes() for copy in copies] == [source.read_bytes(), b"other"]


def test_what_is_damaged_or_unknown_is_replaced(source: Path, folder: Path) -> None:
    copy = stage(source, folder)
    whole, record = source.read_bytes(), copy.parent / ".train.beton.staged"
    copy.write_bytes(whole[:-1])
    assert stage(source, folder).read_bytes() == whole
    for damage in ("", "{", "[]", '{"size": []}'):
        copy.write_bytes(b"x" * len(whole))
        record.write_text(damage)
        assert stage(source, folder).read_bytes() == whole
    copy.unlink()
    assert stage(source, folder).read_bytes() == whole


def test_a_changed_source_is_copied_again(source: Path, folder: Path) -> None:
    stage(source, folder)
    status = source.stat()
    source.write_bytes(b"y" * 3_000_000)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert stage(source, folder).read_bytes() == source.read_bytes()
    source.with_name("train.beton.json").write_text('{"new": 1}\n')
    assert stage(source, folder).with_name("train.beton.json").read_text() == '{"new": 1}\n'


def test_no_space(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(stage_data.shutil, "disk_usage", lambda _: usage(10, 0, 3_000_002))
    with pytest.raises(OSError, match=r"has 0\.003 GB free, .*train\.beton needs 0\.003 GB; make room there"):
        stage(source, folder)
    assert _names(folder) == []
    monkeypatch.setattr(stage_data.shutil, "disk_usage", lambda _: usage(10, 0, 3_000_003))
    stage(source, folder)


def test_a_disk_that_fills_up_meanwhile(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stage(source, folder)
    source.write_bytes(b"new")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        OSError, match=r"copying .*train\.beton to .* failed: .*No space left on device; choose another"
    ):
        stage(source, folder)
    assert _names(folder) == [".train.beton.json.staged", "train.beton.json"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, where one can be mounted."""
    disk = tmp_path / "tiny"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_real_disk_that_is_full(source: Path, tiny_disk: Path) -> None:
    (tiny_disk / "other").write_bytes(b"x" * 2_000_000)
    with pytest.raises(
        OSError, match=r"has 0\.002 GB free, .*train\.beton needs 0\.003 GB; make room there, choose an"
    ):
        stage(source, tiny_disk)
    assert _names(tiny_disk) == ["other"]
    (tiny_disk / "other").unlink()
    assert stage(source, tiny_disk).read_bytes() == source.read_bytes()


def test_a_real_disk_that_others_fill_meanwhile(source: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    (tiny_disk / "other").write_bytes(b"x" * 2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))  # it was free just before
    message = r"copying .*train\.beton to .* failed: .*No space left on device; choose another folder"
    with pytest.raises(OSError, match=message):
        stage(source, tiny_disk)
    assert _names(tiny_disk) == [".train.beton.json.staged", "other", "train.beton.json"]


def _on_fsync(monkeypatch: pytest.MonkeyPatch, source: Path, folder: Path, change: str) -> None:
    """Once the copy of the source is written, damage it, or change the source."""

    def fsync(_file: int) -> None:
        for path in folder.rglob(".train.beton.*.partial") if change == "copy" else [source]:
            if not path.name.startswith(".train.beton.json"):
                with path.open("r+b") as file:
                    file.write(b"other")

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("copy", "gives back other bytes than were written; keep that node out"),
        ("source", "changed while it was copied"),
    ],
)
def test_a_copy_that_is_not_right_does_not_appear(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    source.with_name("train.beton.json").unlink()
    _on_fsync(monkeypatch, source, folder, change)
    with pytest.raises(OSError, match=message):
        stage(source, folder)
    assert _names(folder) == []


def test_many_at_once_copy_once(
    source: Path, folder: Path, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    processes.append(_start_paused(tmp_path, source, folder))
    processes += [_start(*COMMAND, source, folder) for _ in range(2)]
    _wait_until(lambda: all(map(_is_waiting, processes[1:])))
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    said = [output.splitlines() for output, _ in outputs]
    assert [len(lines) for lines in said] == [1, 1, 1]
    assert ["copied from" in lines[0] for lines in said] == [True, False, False]
    assert ["already there" in lines[0] for lines in said] == [False, True, True]
    assert _names(folder) == ALL


@pytest.mark.parametrize(("number", "left"), [(signal.SIGKILL, 1), (signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_one_that_is_killed_leaves_nothing_under_the_name(
    source: Path,
    folder: Path,
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
    number: signal.Signals,
    left: int,
) -> None:
    source.with_name("train.beton.json").unlink()
    processes.append(_start_paused(tmp_path, source, folder))
    processes[0].send_signal(number)
    processes[0].wait(timeout=60)
    assert processes[0].returncode != 0
    unfinished = [name for name in _names(folder) if name.endswith(".partial")]
    assert _names(folder) == unfinished
    assert len(unfinished) == left
    assert stage(source, folder).read_bytes() == source.read_bytes()
    assert _names(folder) == [".train.beton.staged", "train.beton"]


def _error(*arguments: object) -> str:
    """What the command says when it refuses."""
    process = _start(*COMMAND, *arguments)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == ""
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    return errors


def test_errors_of_the_command(source: Path, tmp_path: Path) -> None:
    assert f"SOURCE is '{tmp_path / 'none'}', allowed: a file that there is on " in _error(tmp_path / "none", tmp_path)
    assert "allowed: a file that there is" in _error(tmp_path, tmp_path / "node")
    assert "allowed: another one than the source's; choose another folder" in _error(source, source.parent)
    (tmp_path / "link").symlink_to(source.parent)
    assert "allowed: another one than the source's" in _error(tmp_path / "link" / source.name, source.parent)
    assert "variables that are set, and $NOT_SET is not; export it" in _error(source, "/tmp/${NOT_SET}/x")
    assert "FOLDER is '', allowed: a folder" in _error(source, "")
    assert "cannot be made on " in _error(source, source)


def test_variables_are_expanded(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    assert stage(source, Path("$NODE_DISK/me")).parents[2] == tmp_path / "disk" / "me"
