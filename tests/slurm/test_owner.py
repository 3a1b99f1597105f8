"""Who works in a folder: one of many that begin at once, nobody for long after a death, and the superseded notice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slurm import owner
from slurm.owner import BOOT_ID, Claim, Owned, Superseded, alone, claim

HOLD = """\
import sys, time
from pathlib import Path
from slurm import owner
try:
    owner.claim(Path(sys.argv[1]), "the other")
except owner.Owned as error:
    sys.exit(str(error))
print("mine", flush=True)
time.sleep(60)
"""


def _hold(folder: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=pipe, stderr=pipe, text=True)


def _await_claim(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert process.stdout.readline() == "mine\n"


def _rewrite(held: Claim, **fields: object) -> None:
    held.path.write_text(json.dumps({**json.loads(held.path.read_text()), **fields}))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life come and are missed soon."""
    monkeypatch.setattr(owner, "RENEW_EVERY_S", 0.1)
    monkeypatch.setattr(owner, "SIGN_OF_LIFE_S", 0.5)
    monkeypatch.setattr(owner, "POLL_S", 0.01)


def test_of_many_that_begin_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    processes = [_hold(tmp_path / "run") for _ in range(6)]
    refused = [process for process in processes if process.stdout and not process.stdout.readline()]
    assert len(refused) == 5
    for process in refused:
        _, said = process.communicate(timeout=20)
        assert process.returncode == 1
        assert f"run is in use by the other on {socket.gethostname()}, since" in said
        assert "wait until it is over, or stop it first (python " in said
        assert said.rstrip().endswith(f"jobs/status.py {tmp_path / 'run'} --cancel)")
    for process in processes:
        process.kill()
        process.communicate()


def test_a_holder_that_was_killed_is_in_nobody_s_way(tmp_path: Path) -> None:
    process = _hold(tmp_path)
    _await_claim(process)
    with pytest.raises(Owned, match="the other"):
        claim(tmp_path)
    process.kill()
    process.communicate()
    begin = time.monotonic()
    assert claim(tmp_path).holds()
    assert time.monotonic() - begin < 0.4  # it is not watched: its process is gone


@pytest.mark.parametrize("fields", [{"boot": "an earlier one"}, {"born": 1}, {"pid": 2**30}])
def test_a_process_id_that_is_used_again_is_not_the_holder(tmp_path: Path, fields: dict[str, object]) -> None:
    _rewrite(claim(tmp_path), **fields)
    assert claim(tmp_path).holds()


def test_a_holder_on_another_machine_lives_as_long_as_it_shows(tmp_path: Path) -> None:
    held = claim(tmp_path, "job 17, attempt 2")
    _rewrite(held, host="n3")
    with pytest.raises(Owned, match="in use by job 17, attempt 2 on n3, since"):
        claim(tmp_path)
    held.path.unlink()  # its thread ends
    time.sleep(0.3)
    held.path.write_text(json.dumps({**vars(_holder()), "host": "n3"}))
    assert claim(tmp_path).holds()


def _holder() -> owner.Holder:
    return owner.Holder("job 17", "n1", BOOT_ID.read_text().strip(), 1, 1, 0.0)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": 1}', "\0\0\0"])
def test_a_claim_that_was_never_written_is_waited_for_and_then_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / ".owner_7").write_text(text)
    assert claim(tmp_path).path.name == ".owner_8"
    assert [path.name for path in tmp_path.iterdir()] == [".owner_8"]


def test_the_superseded_notices_at_once_and_says_by_whom(tmp_path: Path) -> None:
    first = claim(tmp_path, "job 17, attempt 1")
    first.require()
    second = claim(tmp_path, "job 17, attempt 2", take_over=True)
    assert not first.holds()
    with pytest.raises(Superseded, match=r"has been taken over by job 17, attempt 2 on .*; this attempt ends"):
        first.require()
    first.release()  # nothing of the second's
    second.require()


def test_a_sleeper_that_chose_its_number_long_ago_does_not_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked, sleeps, and others come and go; then it makes the number that was free when it looked."""
    seen = owner._numbers
    others: list[Claim] = []

    def slow(folder: Path) -> list[int]:
        numbers = seen(folder)
        if not others:
            others.append(Claim(tmp_path))
            claim(folder, "a", take_over=True)
            others[0] = claim(folder, "b", take_over=True)
        return numbers

    monkeypatch.setattr(owner, "_numbers", slow)
    with pytest.raises(Owned, match="in use by b on"):
        claim(tmp_path, "the sleeper")
    others[0].require()


def test_a_disk_that_fails_for_a_moment_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = claim(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    assert held.holds()


def test_a_full_disk_is_named_before_a_run_and_no_obstacle_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = claim(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    held.release()
    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match=r"No space left on device; make room there, or choose another folder: .*owner_2"):
        claim(tmp_path, take_over=True)
    assert [path.name for path in tmp_path.glob(".owner*")] == [".owner_1"]


def test_a_folder_that_cannot_be_claimed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        claim(tmp_path / "file" / "run")


def test_whoever_wants_to_be_alone_waits_for_the_others(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(5):
            with alone(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_no_lock_of_the_file_system_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def fail(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(os, "link", fail)
    with alone(tmp_path):
        pass


def test_a_stopped_process_that_wakes_up_notices(tmp_path: Path) -> None:
    process = _hold(tmp_path)
    _await_claim(process)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(Owned):
        claim(tmp_path)  # it may wake up
    claim(tmp_path, take_over=True)
    assert not Claim(tmp_path / ".owner_1").holds()
    process.kill()
    process.communicate()
