"""Files of a run that are damaged or cannot be written: it goes on from what is whole, in the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from drills.digits_runs import DigitsRuns, await_step, finish, kill_session, start
from drills.tally import Drill
from vicreg import checkpoint
from vicreg.checkpoint import MANIFEST_FILE, STATE_FILE

TOO_SMALL_BYTES = 100_000  # for a checkpoint, not for what else a run writes


def drills(runs: DigitsRuns) -> Sequence[Drill]:
    """All of this family."""

    def damaged(number: int, folder: Path) -> None:
        _damage_and_go_on(runs, folder, WAYS[number])

    def no_room(_: int, folder: Path) -> None:
        _end_without_room(runs, folder)

    return [Drill("a damaged checkpoint", damaged, len(WAYS)), Drill("no room for a checkpoint", no_room)]


def _cut(newest: Path) -> None:
    state = newest / STATE_FILE
    state.write_bytes(state.read_bytes()[:-1000])


def _flip(newest: Path) -> None:
    content = bytearray((newest / STATE_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / STATE_FILE).write_bytes(content)


def _other_structure(newest: Path) -> None:
    (newest / MANIFEST_FILE).write_text("null")


def _no_text(newest: Path) -> None:
    (newest / MANIFEST_FILE).write_bytes(b"\xff\xfe\x00")


WAYS: tuple[Callable[[Path], None], ...] = (_cut, _flip, _other_structure, _no_text)


def _damage_and_go_on(runs: DigitsRuns, folder: Path, damage: Callable[[Path], None]) -> None:
    run = folder / "run"
    process = start(runs.command(run))
    await_step(run, 9, process)
    kill_session(process)
    newest = checkpoint.list_checkpoints(run / "checkpoints")[-1]
    damage(newest)
    said = finish(runs.command(run))
    runs.require_same_bits(run)
    if damage in (_cut, _flip):
        assert (run / "checkpoints" / f"damaged_{newest.name}").is_dir(), "what was damaged has not been set aside"
    else:  # by whichever rank came first
        said += "".join(log.read_text() for log in run.glob("jobs/pretrain/rank_*.log"))
        assert f"{STATE_FILE} is whole" in " ".join(said.split()), "the manifest has not been made again"


def _end_without_room(runs: DigitsRuns, folder: Path) -> None:
    run = folder / "run"
    process = start(runs.command(run), largest_file_bytes=TOO_SMALL_BYTES)
    assert process.wait(timeout=240) == 1, f"exit code {process.returncode}: the run did not end for want of room"
    assert not list((run / "checkpoints").iterdir()), "something half-written stays"
    finish(runs.command(run))
    runs.require_same_bits(run)
