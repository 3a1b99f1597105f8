"""A sample that cannot be decoded ends a job with one line, and its tries: training's and evaluations' alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dataprep.beton.contract import manifest_path, open_beton
from dataprep.sources.digits import open_split
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from jobs.execution import eval_all as measuring
from jobs.execution import pretrain as training
from jobs.planning.pieces import Choice
from slurm.requeue import StopFlag
from slurm.task import ERROR, HOPELESS, Task, read_notes
from tests.jobs.run_folders import digits_config, write_run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as JPEGs; all of val.beton have lost their bytes, and of train.beton the first."""
    folder = tmp_path_factory.mktemp("digits")
    for split, num_bad in (("val", 360), ("train", 1)):
        path = folder / f"{split}.beton"
        write_beton(open_split(split), path, WritePlan("jpg"), num_workers=0)
        beton, content = open_beton(path), bytearray(path.read_bytes())
        for sample in range(num_bad):
            start, size = int(beton.pointers[sample]), int(beton.sizes[sample])
            content[start : start + size] = bytes(size)
        path.write_bytes(content)
        assert manifest_path(path).exists()
    return folder


@pytest.mark.parametrize("job", ["pretrain", "knn"])
def test_a_bad_sample_is_one_line_and_the_last_try(
    digits: Path, tmp_path: Path, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, start = tmp_path / "run", tmp_path / "start"
    config = digits_config(digits)
    write_run(run, config, "digits")
    start.mkdir()
    task = Task(rank=0, world_size=1, local_rank=0, local_size=1, start_folder=str(start))
    choice: dict[str, Any] = json.loads(json.dumps(asdict(Choice(names=("knn",)))))
    arguments: tuple[Any, ...] = (choice, False, job)
    work: Callable[..., bool] = measuring.run_job
    if job == "pretrain":
        (run / "encoder.pt").unlink()
        work, arguments = training.run_job, ()
    with StopFlag() as stop, pytest.raises(SystemExit) as ended:
        work(task, stop, str(run), *arguments)
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"error: {digits}/" in line
    for part in (".beton: sample ", " cannot be used (", "write_ffcv.py verify ", "--data.on-bad skip"):
        assert part in line
    assert [note.message for note in read_notes(start, HOPELESS)] == [line.removeprefix("error: ")]
    assert [note.message for note in read_notes(start, ERROR)] == [line.removeprefix("error: ")]
