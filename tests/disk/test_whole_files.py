"""A file is there whole, on the disk, or as it was; whoever fills the disk is told where, how much and what to do."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from disk import whole_files
from disk.whole_files import partial_path, publish, room_for, write_text, written

MAX_BYTES = 100_000


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow over MAX_BYTES: what a full disk is, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """What is flushed (by its path at that moment) and what is moved where, in order."""
    calls: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        calls.append(("flushed", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def moved(source: Path, target: Path) -> None:
        calls.append(("moved to", Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", moved)
    return calls


def test_content_is_on_the_disk_before_the_name_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _calls(monkeypatch)
    path = tmp_path / "new" / "a.json"
    write_text(path, "ü")
    assert path.read_bytes() == "ü".encode()
    assert calls == [("flushed", partial_path(path)), ("moved to", path), ("flushed", path.parent)]


def test_everything_in_a_folder_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, target = tmp_path / ".partial", tmp_path / "step"
    (partial / "inner").mkdir(parents=True)
    files = [partial / "a", partial / "inner" / "b"]
    for file in files:
        file.write_text("x")
    calls = _calls(monkeypatch)
    publish(partial, target)
    moved = calls.index(("moved to", target))
    assert {path for _, path in calls[:moved]} == {partial, partial / "inner", *files}
    assert calls[moved + 1 :] == [("flushed", tmp_path)]


def test_a_file_system_that_cannot_flush_folders_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", cannot)
    write_text(tmp_path / "a", "1")
    assert (tmp_path / "a").read_text() == "1"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "before")

    def fail() -> None:
        with written(path, 1) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = partial_path(path).name
    left = tmp_path / own.replace(str(os.getpid()), str(dead.pid))
    living = tmp_path / own.replace(str(os.getpid()), str(os.getppid()))
    elsewhere = tmp_path / f".a.another-machine.{dead.pid}.partial"
    for file in (left, living, elsewhere):
        file.write_text("half")
    write_text(path, "whole")
    assert {*tmp_path.iterdir()} == {path, living, elsewhere}


@pytest.mark.parametrize("kind", ["plain", "torch"])
def test_a_full_disk_names_path_need_and_cure(tmp_path: Path, small_files: None, kind: str) -> None:
    """torch tells of a full disk by an error of its own, which names neither."""
    path, values = tmp_path / "encoder.pt", torch.zeros(100_000)

    def fill() -> None:
        with written(path, values.nbytes) as file:
            if kind == "torch":
                torch.save(values, file)
            else:
                file.write(values.numpy().tobytes())

    with pytest.raises(OSError, match=r"encoder\.pt") as error:
        fill()
    assert error.value.errno == errno.EFBIG
    said = str(error.value)
    assert f"cannot write {path}: File too large; about 0.4 MB are needed" in said
    assert f"make room on the disk of {tmp_path} (or in your quota" in said
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), room_for(tmp_path / "a", 1):
        _ = 1 / 0
    with pytest.raises(PermissionError), room_for(tmp_path / "a", 1):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert whole_files.full_disk(OSError(errno.ENOSPC, "full")) is not None
