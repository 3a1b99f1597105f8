"""Drills on this machine in short, and how their tries are counted; those on a cluster are in tests/cluster."""

from __future__ import annotations

import pickle
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from drills import archives, data, documents, files, kills, processes, values
from drills.all import main
from drills.digits_runs import DigitsRuns
from drills.tally import Drill, carry_out, table


def test_tries_are_counted_and_losses_said(tmp_path: Path) -> None:
    def attempt(number: int, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        assert number != 1, "step [7] is gone"

    said = Console(file=StringIO(), width=80)
    tally = carry_out(Drill("a [red] one", attempt, 3), tmp_path, said)
    assert (tally.tries, tally.survived) == (3, 2)
    assert tally.losses == ("try 2: AssertionError: step [7] is gone\nassert 1 != 1",)
    said.print(table([tally, carry_out(Drill("another", lambda *_: None), tmp_path, said)]))
    assert isinstance(said.file, StringIO)
    rows = [line.split() for line in said.file.getvalue().splitlines()]
    assert ["a", "[red]", "one", "3", "2", "1", "0"] in rows
    assert ["all", "4", "3", "1", "0"] in rows


def test_a_family_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        SystemExit, match="only is fires, allowed: kills, values, processes, files, data, documents, clusters"
    ):
        main(["--only", "fires"])


@pytest.mark.parametrize("number", range(8))
def test_malicious_code_would_leave_a_trace(number: int, tmp_path: Path) -> None:
    """Where it is unpickled without care."""
    calls = documents.malicious(tmp_path / documents.TRACE)
    assert len(calls) == 8
    pickle.loads(pickle.dumps(calls[number]))  # noqa: S301
    assert (tmp_path / documents.TRACE).exists()


@pytest.mark.parametrize("drill", archives.drills(), ids=lambda drill: drill.name)
def test_no_photo_of_a_damaged_tar_is_lost_in_silence(drill: Drill, tmp_path: Path) -> None:
    assert not carry_out(drill, tmp_path, Console()).losses


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> DigitsRuns:
    """What all of them compare with."""
    return DigitsRuns(tmp_path_factory.mktemp("drills"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [kills, values, processes, files, data, documents], ids=lambda family: family.__name__
)
def test_nothing_is_lost(family: object, runs: DigitsRuns, tmp_path: Path) -> None:
    """The last of each family, once."""
    drill = family.drills(runs)[-1]
    tally = carry_out(drill, tmp_path, Console(), tries=1)
    assert not tally.losses
