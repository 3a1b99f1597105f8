"""Features in files that jobs share: the same bits as without, whoever wrote them, two at once, other ranks, kills."""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import FORKSERVER, run_ranks
from vicreg.config import DataConfig
from vicreg.evals import kept_features
from vicreg.evals.features import Splits, open_splits
from vicreg.evals.kept_features import KeptFeatures

CPU = torch.device("cpu")
BATCHES = 12  # of 128 in the 1,437 digits


class Encoder(nn.Module):
    """A convolution that counts the batches that pass, and takes its time."""

    num_features = 32

    def __init__(self, batch_s: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(3, 2, 3, stride=2, padding=1)
        self.seen, self.batch_s = 0, batch_s

    def forward(self, images: Tensor) -> Tensor:
        self.seen += 1
        time.sleep(self.batch_s)
        features: Tensor = self.layer(images).flatten(1)
        return features


@pytest.fixture(scope="module")
def digits(digits_folder: Path) -> DataConfig:
    """The digits at 8 px."""
    train, val = str(digits_folder / "train.beton"), str(digits_folder / "val.beton")
    return DataConfig(train=train, val=val, image_size=8, eval_resize=8)


def _splits(data: DataConfig, folder: Path | None) -> Splits:
    return replace(open_splits(data, CPU, 1), shared=folder)


def _compute(data: DataConfig, folder: Path | None, batch_s: float = 0.0) -> tuple[Tensor, int]:
    """All features of the training split, on every rank, and how many batches were computed."""
    kept_features.KEEP_EVERY_S = 0.0  # in a process of its own
    encoder = Encoder(batch_s)
    return _splits(data, folder).features(encoder, "train").all_rows(CPU), encoder.seen


@pytest.fixture(scope="module")
def right(digits: DataConfig) -> Tensor:
    """What is computed without files."""
    return _splits(digits, None).features(Encoder(), "train").values


def test_a_second_job_computes_nothing(digits: DataConfig, right: Tensor, tmp_path: Path) -> None:
    for computed in (BATCHES, 0):
        encoder = Encoder()
        assert torch.equal(_splits(digits, tmp_path).features(encoder, "train").values, right)
        assert encoder.seen == computed


def test_what_ranks_computed_serves_any_number_of_them(digits: DataConfig, right: Tensor, tmp_path: Path) -> None:
    for ranks, computed in ((3, BATCHES // 3), (2, 0)):
        found, seen = run_ranks(_compute, ranks, tmp_path, digits, tmp_path / "features")
        assert torch.equal(found, right)
        assert seen == computed


def test_two_jobs_may_write_at_once_and_one_be_killed(digits: DataConfig, right: Tensor, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    arguments = (digits, folder, 0.05)
    jobs = [FORKSERVER.Process(target=_compute, args=arguments) for _ in range(3)]
    for job in jobs:
        job.start()
    while not list(folder.glob("*/rows_*")):
        assert jobs[0].is_alive()
        time.sleep(0.01)
    assert jobs[0].pid
    os.kill(jobs[0].pid, signal.SIGKILL)
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [-signal.SIGKILL, 0, 0]
    encoder = Encoder()
    assert torch.equal(_splits(digits, folder).features(encoder, "train").values, right)
    assert encoder.seen == 0


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float32, "float32"), (torch.float16, "float16"), (torch.bfloat16, "bfloat16")]
)
def test_values_take_no_more_room_than_they_need(dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(6, 5).to(dtype).float()
    KeptFeatures(tmp_path, {}, range(4, 10), 0).keep(values, range(5, 9))
    (path,) = tmp_path.glob("*/rows_*")
    assert path.suffix == f".{name}"
    assert path.stat().st_size == 4 * 5 * dtype.itemsize + kept_features.DIGEST_BYTES
    found = torch.zeros(9, 5)
    assert KeptFeatures(tmp_path, {}, range(2, 11), 0).load(found) == [range(2, 5), range(9, 11)]
    assert torch.equal(found[3:7], values[1:5])
    assert KeptFeatures(tmp_path, {"other": 1}, range(2, 11), 0).load(found) == [range(2, 11)]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damaged_rows_are_computed_again(
    damage: str, digits: DataConfig, right: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_features, "KEEP_EVERY_S", 0.0)
    _splits(digits, tmp_path).features(Encoder(), "train")
    path = sorted(tmp_path.glob("*/rows_*"))[3]
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "cut" else content)
    encoder = Encoder()
    assert torch.equal(_splits(digits, tmp_path).features(encoder, "train").values, right)
    assert encoder.seen == 1


def test_a_disk_without_room_is_left_alone_and_said(
    digits: DataConfig, right: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needed = right.numel() * right.itemsize
    monkeypatch.setattr(kept_features.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * needed - 1))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(_splits(digits, tmp_path).features(Encoder(), "train").values, right)
    assert "are not kept: more than half of what is free there" in caplog.text
    assert not list(tmp_path.glob("*/rows_*"))
