"""What training asks and tells whoever started it: another attempt's folder is not written to, long phases are said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from tests.vicreg.methods.small_runs import small
from vicreg import checkpoint
from vicreg.ranks.distributed import Placement
from vicreg.run_files import read_metrics
from vicreg.training.oversight import Oversight, Phase
from vicreg.training.train import Outcome, train


class TakenOver(RuntimeError):
    """Another attempt has the folder."""


@pytest.mark.parametrize("questions", [2, 5])
def test_from_one_question_on_nothing_more_is_written(digits_folder: Path, tmp_path: Path, questions: int) -> None:
    """It is asked at the start and before each line of metrics; checkpoints and encoders ask on their own, too."""
    config = small("vicreg", digits_folder, checkpoint_every_steps=1, keep_checkpoints=100)
    asked: list[int] = []
    before: list[tuple[int, int]] = []

    def require_owner() -> None:
        asked.append(1)
        if len(asked) > questions:
            before.append((len(read_metrics(tmp_path)), len(checkpoint.list_checkpoints(tmp_path / "checkpoints"))))
            raise TakenOver

    with pytest.raises(TakenOver):
        train(config, tmp_path, Placement(), Oversight(require_owner=require_owner), Console(quiet=True))
    after = (len(read_metrics(tmp_path)), len(checkpoint.list_checkpoints(tmp_path / "checkpoints")))
    assert after == before[0]
    assert after[0] < questions
    assert not list((tmp_path / "checkpoints").glob(".step_*"))
    assert not (tmp_path / "encoder.pt").exists()


def test_what_takes_longer_than_a_step_is_said(digits_folder: Path, tmp_path: Path) -> None:
    phases: list[str] = []

    @contextmanager
    def phase(name: Phase) -> Iterator[None]:
        phases.append(f"+{name}")
        yield
        phases.append(f"-{name}")

    config = small("vicreg", digits_folder)
    oversight = Oversight(lambda step: step >= 2, phase=phase)
    assert train(config, tmp_path, Placement(), oversight, Console(quiet=True)) is Outcome.STOPPED
    assert phases[-2:] == ["+the end", "-the end"]
    assert set(phases[:-2]) <= {"+a checkpoint", "-a checkpoint"}
