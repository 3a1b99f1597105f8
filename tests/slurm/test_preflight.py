"""What is wrong with a job is said before it is handed over: the thing, its value, what is allowed, the cure."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.planning.plan import check_data
from slurm.cluster import Cluster, override
from slurm.preflight import Check, check_cluster, check_folder
from slurm.task import JobSpec
from tests.slurm.conftest import FakeSlurm
from vicreg.config import DataConfig, PretrainConfig
from vicreg.methods import vicreg

SINFO = """\
normal*|1-00:00:00|4|gpu:a100:8|256000
long|7-00:00:00|2|gpu:a100:4|512000
cpu|infinite|40|(null)|64000
"""
CLUSTER = Cluster("mine", time="20:00:00", mem_per_gpu_gb=30)
NOBODY = 65534


def _spec(nodes: int = 4, gpus: int = 8, uses_gpus: bool = True) -> JobSpec:
    return JobSpec("pretrain", "a.function", {}, nodes, gpus, uses_gpus)


def _failed(checks: list[Check]) -> list[str]:
    return [check.said for check in checks if check.passed is False]


@pytest.fixture
def slurm(slurm: FakeSlurm) -> FakeSlurm:
    """A SLURM with three partitions."""
    slurm.says("sinfo", SINFO)
    return slurm


def test_what_fits_is_said_too(slurm: FakeSlurm) -> None:
    assert [(check.name, check.passed, check.said) for check in check_cluster(_spec(), CLUSTER)] == [
        ("partition", True, "normal"),
        ("nodes", True, "4 asked for, partition normal has 4"),
        ("GPUs per node", True, "8 asked for, partition normal has 8"),
        ("memory per node", True, "240 GB asked for, partition normal has 250 GB"),
        ("time", True, "20:00:00 asked for, partition normal has 24.0 h"),
    ]


@pytest.mark.parametrize(
    ("spec", "cluster", "said"),
    [
        (_spec(), {"partition": "gpu"}, "partition is 'gpu', allowed: normal, long, cpu; choose one with --partition"),
        (
            _spec(),
            {"partition": "normal,gpu"},
            "partition is 'normal,gpu', allowed: normal, long, cpu; choose one with",
        ),
        (_spec(5), {}, "nodes is 5, allowed: at most 4 in partition normal; see --nodes"),
        (
            _spec(gpus=9),
            {"mem_per_gpu_gb": 1},
            "GPUs per node is 9, allowed: at most 8 in partition normal; see --gpus",
        ),
        (
            _spec(1, 1),
            {"partition": "cpu"},
            "GPUs per node is 1, allowed: at most 0 in partition cpu; see --gpus, --part",
        ),
        (
            _spec(),
            {"mem_per_gpu_gb": 40},
            "memory per node is 320 GB, allowed: at most 250 GB in partition normal; see mem",
        ),
        (
            _spec(),
            {"time": "1-00:01"},
            "time is 1-00:01, allowed: at most 24.0 h in partition normal; see --time; a longer",
        ),
    ],
)
def test_what_does_not_fit(slurm: FakeSlurm, spec: JobSpec, cluster: dict[str, str | float], said: str) -> None:
    (found,) = _failed(check_cluster(spec, override(CLUSTER, **cluster)))
    assert found.startswith(said)


def test_everything_that_does_not_fit_is_said_at_once(slurm: FakeSlurm) -> None:
    assert len(_failed(check_cluster(_spec(50, 9), replace(CLUSTER, time="9-0")))) == 4


def test_no_gpus_no_memory_and_no_limit_are_no_mistakes(slurm: FakeSlurm) -> None:
    on_cpus = replace(CLUSTER, partition="cpu", time="300-0", mem_per_gpu_gb=0)
    assert not _failed(check_cluster(_spec(40, 8, uses_gpus=False), on_cpus))
    assert not _failed(check_cluster(_spec(40, 8), replace(on_cpus, gres_style="none")))


def test_of_several_partitions_one_must_fit(slurm: FakeSlurm) -> None:
    both = replace(CLUSTER, partition="normal,long")
    assert not _failed(check_cluster(_spec(2, 4), replace(both, time="6-0")))
    assert not _failed(check_cluster(_spec(4, 8), both))
    assert _failed(check_cluster(_spec(4, 8), replace(both, time="6-0")))


def test_a_site_without_a_default_partition(slurm: FakeSlurm) -> None:
    slurm.says("sinfo", SINFO.replace("*", ""))
    said = "partition is '' and none is the default, allowed: normal, long, cpu; choose one with --partition"
    assert _failed(check_cluster(_spec(), CLUSTER)) == [said]


def test_a_scheduler_that_is_silent_and_one_that_is_not_there(slurm: FakeSlurm) -> None:
    slurm.says("sinfo", error="slurm_load_partitions: Unable to contact slurm controller (connect failure)\n", code=1)
    (check,) = check_cluster(_spec(), CLUSTER)
    assert (check.name, check.passed) == ("scheduler", False)
    assert "Unable to contact slurm controller" in check.said
    assert check.said.endswith("on this machine alone: --cluster local")
    (slurm.folder / "bin" / "sinfo").unlink()
    assert [check.passed for check in check_cluster(_spec(), CLUSTER)] == [None]
    assert check_cluster(_spec(), Cluster("here", scheduler="local")) == []


# --- folders and data


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that anybody may look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Without root's rights, where there are any."""
    if os.getuid():
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_folders_that_can_be_written_or_made(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "runs" / "new"):
        check = check_folder(folder)
        assert check.passed
        assert "GB free" in check.said
    assert not (tmp_path / "runs").exists()


def test_folders_that_cannot_be_written(open_folder: Path) -> None:
    file, locked = open_folder / "file", open_folder / "locked"
    file.touch()
    locked.mkdir()
    (locked / "inner").mkdir(mode=0o777)
    locked.chmod(0o500 if os.getuid() else 0o700)
    allowed = "allowed: one that can be made and written; choose another with --run"
    assert check_folder(file / "run").said == f"run folder is '{file}/run' ({file}: Not a directory), {allowed}"
    with _as_nobody():
        for folder in (locked, locked / "new", locked / "inner" / "run"):
            check = check_folder(folder)
            assert not check.passed
            assert check.said == f"run folder is '{folder}' ({locked}: Permission denied), {allowed}"
    locked.chmod(0o700)


def test_training_data_that_are_not_there_or_no_beton(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "train.beton", tmp_path / "empty.beton", tmp_path):
        if "empty" in path.name:
            path.touch()
        beton, check = check_data(replace(PretrainConfig(vicreg.Config()), data=replace(DataConfig(), train=str(path))))
        assert beton is None
        assert check.passed is False
        assert check.said.startswith(f"{path}{' is a folder' if path.is_dir() else ': '}")
        if not path.exists():
            assert "dataprep/write_ffcv.py folder --root IMAGES" in check.whole
