"""What a node must be able to do before it takes part: what is missing is said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from slurm import fitness
from slurm.fitness import Unfit, require_fit
from tests.slurm.conftest import FakeSlurm

QUERY = "nvidia-smi --query-gpu=memory.free,memory.total --format=csv,noheader,nounits"


def test_a_node_that_has_everything_is_fit(tmp_path: Path) -> None:
    data = tmp_path / "train.beton"
    data.write_bytes(b"12345")
    require_fit(tmp_path, {str(data): 5}, 8)  # nothing is known of GPUs without the driver's program
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("train.beton", 4, r"train.beton has 5 bytes, where the job was submitted it had 4"),
        ("val.beton", 5, r"val.beton cannot be read: No such file"),
        ("folder", 5, r"folder cannot be read: Is a directory"),
    ],
)
def test_data_that_is_not_there_in_full_is_named(tmp_path: Path, name: str, size: int, said: str) -> None:
    (tmp_path / "train.beton").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unfit, match=said):
        require_fit(tmp_path, {str(tmp_path / name): size}, 0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=re.escape(f"{tmp_path}/gone cannot be written: No such file")):
        require_fit(tmp_path / "gone", {}, 0)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fitness.shutil, "disk_usage", lambda _: total._replace(free=2 * 10**7))
    with pytest.raises(Unfit, match=r"has 0.02 GB free, needed: 1; make room there"):
        require_fit(tmp_path, {}, 0)


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        ("39000, 40000\n38000, 40000\n", 0, ""),
        ("39000, 40000\n", 0, "1 of 2 GPUs answer"),
        ("Unable to determine the device handle for GPU1: GPU is lost.\n", 15, "0 of 2 GPUs answer .*GPU is lost"),
        ("39000, 40000\n1000, 40000\n", 0, "GPU 1 has 1,000 of 40,000 MB free: another process holds it"),
    ],
)
def test_gpus_that_do_not_answer_or_are_not_free_are_named(
    tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, output: str, code: int, said: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slurm.says(f"{QUERY} --id=0,1", output, code=code)
    if not said:
        require_fit(tmp_path, {}, 2)
        return
    with pytest.raises(Unfit, match=said):
        require_fit(tmp_path, {}, 2)


def test_a_gpu_that_hangs_is_named(tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(fitness, "SMI_TIMEOUT_S", 0.2)
    slurm.says(QUERY, "39000, 40000\n", seconds=5)
    with pytest.raises(Unfit, match="do not answer within 0 s"):
        require_fit(tmp_path, {}, 1)
