"""Who works in a folder: the one whose claim is the newest, and everybody else finds out before the next step.

A claim is a numbered file that only one process can make, on network file systems too. Whoever makes the next number
removes the lower ones; a process whose file is gone has been superseded, were it on a node that the scheduler takes for
dead or back from a long sleep. No claim has to be given back, and none outlives its holder: a file is not a lock.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from border.documents import parse_json
from border.text import suite_command
from disk.whole_files import write_text

log = logging.getLogger(__name__)

NAME = ".owner_"
RENEW_EVERY_S = 5.0
SIGN_OF_LIFE_S = 15.0  # a holder on another machine that does not renew its claim for so long is dead
POLL_S = 0.1
RELEASED = "{}"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Owned(ValueError):
    """Somebody else is working in the folder."""


class Superseded(RuntimeError):
    """Somebody else has claimed the folder; this process must not write there any more."""


@dataclass(frozen=True)
class Holder:
    """A process that has claimed a folder."""

    name: str
    """What people call it: process 17, or job 17, attempt 2 where it is SLURM's."""
    host: str
    boot: str
    """Of the machine's start; process ids are used again after the next one."""
    pid: int
    born: int
    """When the process started, in the kernel's ticks: its id may be used again before that, too."""
    since: float
    """Seconds since 1970."""

    @property
    def is_of_slurm(self) -> bool:
        """Whether the scheduler started it, and knows what becomes of it."""
        return self.name.startswith("job ")

    def said(self) -> str:
        """For messages."""
        return f"{self.name} on {self.host}, since {time.strftime('%d %b %H:%M', time.localtime(self.since))}"


@dataclass(frozen=True)
class Claim:
    """A claim to the folder in which its file lies."""

    path: Path

    def holds(self) -> bool:
        """Whether nobody has claimed the folder since. It is opened: only then do network file systems look anew."""
        try:
            self.path.open("rb").close()
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ESTALE)  # a disk that fails for a moment proves nothing
        return True

    def require(self) -> None:
        """Superseded, with who it is now, unless the claim holds."""
        if not self.holds():
            other = holder(self.path.parent)
            by = other.said() if other else "another attempt"
            raise Superseded(f"{self.path.parent} has been taken over by {by}; this attempt ends, and writes nothing")

    def release(self) -> None:
        """Let others in at once, although this process goes on; where that cannot be said, they wait for its end."""
        if self.holds():
            with suppress(OSError):
                write_text(self.path, RELEASED)


def claim(folder: Path, name: str = "", take_over: bool = False) -> Claim:
    """Claim a folder; Owned when its holder is alive, unless it is to be taken over."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        number = max(_numbers(folder), default=0)
        if not take_over:
            require_free(folder)
        mine = _path(folder, number + 1)
        if _make(mine, name or f"process {os.getpid()}") and max(_numbers(folder), default=0) == number + 1:
            for other in _numbers(folder):
                if other <= number:
                    _path(folder, other).unlink(missing_ok=True)
            threading.Thread(target=_renew, args=(mine,), name="claim", daemon=True).start()
            return Claim(mine)


def require_free(folder: Path) -> None:
    """Owned when somebody who is alive holds the folder."""
    while True:
        latest = newest(folder)
        state = _state(latest)
        found = _read(latest)
        if state == (0, 0) or not _is_alive(latest, state, found):
            return
        if found:
            run = folder.parents[1] if folder.parent.name == "jobs" else folder
            stop = suite_command("jobs/status.py", run, "--cancel")
            cure = f"wait until it is over, or stop it first ({stop})"
            raise Owned(f"{folder} is in use by {found.said()}; {cure}")


def is_alive(claim: Claim) -> bool:
    """Whether the process whose claim this is lives; on another machine it takes some seconds to tell."""
    state = _state(claim.path)
    return state != (0, 0) and _is_alive(claim.path, state, _read(claim.path), logging.DEBUG)


def holder(folder: Path) -> Holder | None:
    """Who has claimed a folder last, alive or not."""
    return _read(newest(folder))


def newest(folder: Path) -> Path:
    """The file of the newest claim; one that there is not where there is none."""
    return _path(folder, max(_numbers(folder), default=0))


@contextmanager
def alone(folder: Path, name: str = "") -> Iterator[None]:
    """Hold a folder for a moment; whoever else wants to waits, as long as the holder is alive."""
    while True:
        try:
            held = claim(folder, name)
            break
        except Owned:
            time.sleep(POLL_S)
    try:
        yield
    finally:
        held.release()


def _path(folder: Path, number: int) -> Path:
    return folder / f"{NAME}{number}"


def _numbers(folder: Path) -> list[int]:
    try:
        names = [entry.removeprefix(NAME) for entry in os.listdir(folder) if entry.startswith(NAME)]
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdecimal()]


def _make(path: Path, name: str) -> bool:
    """Make a claim's file; False where another process has been quicker."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    holder = Holder(name, socket.gethostname(), _boot(), os.getpid(), _born(os.getpid()), time.time())
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(asdict(holder)))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, f"{error.strerror}; make room there, or choose another folder", str(path)) from error
    return True


def _read(path: Path) -> Holder | None:
    """The holder of a claim; None when it was released, or is not whole yet."""
    try:
        return parse_json(path.read_bytes(), Holder)
    except (OSError, ValueError):
        return None


def _is_alive(path: Path, state: tuple[int, int], holder: Holder | None, level: int = logging.WARNING) -> bool:
    """Whether the holder of a claim lives; `state`: the file's when its holder was read."""
    if holder is None and state[1] == len(RELEASED):
        return False
    if holder and holder.host == socket.gethostname():
        return holder.boot == _boot() and holder.born == _born(holder.pid)
    if holder:
        log.log(
            level, "looking for %.0f s whether %s is still at work in %s", SIGN_OF_LIFE_S, holder.said(), path.parent
        )
    deadline = time.monotonic() + SIGN_OF_LIFE_S
    while time.monotonic() < deadline:  # no clocks are compared
        now = _state(path)
        if now != state:
            return now != (0, 0)
        time.sleep(POLL_S)
    return False


def _state(path: Path) -> tuple[int, int]:
    """When a claim was last written or renewed, and its size; zeros when it is gone."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _renew(path: Path) -> None:
    """Body of a thread that shows that this process lives, until its claim is gone or released."""
    while True:
        time.sleep(RENEW_EVERY_S)
        try:
            if path.stat().st_size == len(RELEASED):
                return
            os.utime(path)
        except FileNotFoundError:
            return
        except OSError:
            continue


def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _born(pid: int) -> int:
    """When a process started, in ticks since the machine's start (proc(5), starttime); 0 when it is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0
