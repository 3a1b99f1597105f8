"""Samples that cannot be decoded: training names them and ends, or others stand in for them, the same ones always."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from dataprep.beton.contract import BadSample, manifest_path, open_beton
from dataprep.sources import digits
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.vicreg.methods.small_runs import small
from vicreg import checkpoint
from vicreg.config import PretrainConfig
from vicreg.data.decode import ImageReader
from vicreg.data.loaders import ViewLoader, centre_batches, open_views
from vicreg.ranks.distributed import Placement
from vicreg.run_files import read_metrics
from vicreg.training.train import CHECKPOINTS, Outcome, train

CPU = torch.device("cpu")
GLOBAL_BATCH = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton: digits as JPEGs, of which some have lost their bytes, and the one that could stand in for the first.

    val.beton is whole.
    """
    folder = tmp_path_factory.mktemp("betons")
    for split in ("train", "val"):
        write_beton(digits.open_split(split), folder / f"{split}.beton", WritePlan("jpg"), num_workers=0)
    beton = open_beton(folder / "train.beton")
    content = bytearray((folder / "train.beton").read_bytes())
    for sample in bad_samples(folder):
        start, size = int(beton.pointers[sample]), int(beton.sizes[sample])
        content[start + size // 3 : start + size] = bytes(size - size // 3)
    (folder / "train.beton").write_bytes(content)
    return folder


def bad_samples(folder: Path) -> list[int]:
    """The first of its class and the next, one of no special place, and the last of all."""
    labels = open_beton(folder / "train.beton").labels
    return [*np.flatnonzero(labels == labels[5])[:2].tolist(), 700, len(labels) - 1]


def _loader(config: PretrainConfig, rank: int, world_size: int, loader: str, order: str) -> ViewLoader:
    data = dataclasses.replace(config.data, on_bad="skip", loader=loader, order=order)
    return open_views(
        data,
        Path(data.train),
        config.views,
        seed=0,
        global_batch=GLOBAL_BATCH,
        rank=rank,
        world_size=world_size,
        device=CPU,
        workers=2,
    )


def _epoch(
    config: PretrainConfig, world_size: int, loader: str, order: str, first: int = 0
) -> tuple[list[Tensor], int]:
    """The first view of each global batch of an epoch, and for how many samples others stand in."""
    loaders = [_loader(config, rank, world_size, loader, order) for rank in range(world_size)]
    views, stand_ins = [], 0
    for batches in zip(*(own.batches(0, first) for own in loaders), strict=True):
        views.append(torch.cat([batch.views[0] for batch in batches]))
        stand_ins += sum(own.num_stand_ins(batch) for own, batch in zip(loaders, batches, strict=True))
    for own in loaders:
        own.close()
    return views, stand_ins


@pytest.mark.parametrize(("loader", "order"), [("beton", "shuffled"), ("beton", "blocks"), ("array", "shuffled")])
def test_what_stands_in_is_the_same_on_any_number_of_ranks_and_from_any_batch_on(
    folder: Path, loader: str, order: str
) -> None:
    config = small("vicreg", folder)
    whole, stand_ins = _epoch(config, 1, loader, order)
    used = len(whole) * GLOBAL_BATCH
    assert 1 <= stand_ins <= len(bad_samples(folder))
    assert used < open_beton(folder / "train.beton").num_samples  # so some may be left out
    for world_size in (2, 4):
        views, found = _epoch(config, world_size, loader, order)
        assert found == stand_ins
        assert all(map(torch.equal, views, whole))
    later, _ = _epoch(config, 2, loader, order, first=3)
    assert all(map(torch.equal, later, whole[3:]))


def test_the_next_whole_sample_of_the_class_stands_in_for_a_bad_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beton = open_beton(folder / "train.beton")
    reader, bad = ImageReader(beton, "skip"), bad_samples(folder)
    of_class = np.flatnonzero(beton.labels == beton.labels[bad[0]]).tolist()
    with caplog.at_level(logging.WARNING):
        for sample in bad * 2:
            image = reader.read(sample).copy()
            assert np.array_equal(image, beton.decode(reader.stand_ins[sample]))  # all are 8 x 8
            assert np.array_equal(reader.read(20), beton.decode(20))  # the thread's decoder is none the worse for it
    assert reader.stand_ins[bad[0]] == reader.stand_ins[bad[1]] == of_class[2]
    last = np.flatnonzero(beton.labels == beton.labels[bad[3]])[0]  # goes round
    assert reader.stand_ins[bad[3]] == last
    assert [beton.labels[other] for other in reader.stand_ins.values()] == [beton.labels[one] for one in bad]
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == len(bad)
    assert f"sample {bad[0]:,} cannot be used (" in named[0]
    assert f"; sample {of_class[2]:,} stands in for it" in named[0]


def test_a_change_that_still_decodes_is_skipped_always_and_not_by_chance(folder: Path, tmp_path: Path) -> None:
    """A raw image can be anything; only its checksum tells."""
    path = tmp_path / "raw.beton"
    write_beton(digits.open_split("val"), path, WritePlan("raw"), num_workers=0)
    beton = open_beton(path)
    content = bytearray(path.read_bytes())
    content[int(beton.pointers[30]) + 7] ^= 4
    path.write_bytes(content)
    for _ in range(5):
        reader = ImageReader(open_beton(path), "skip")
        reader.read(30)
        assert list(reader.stand_ins) == [30]


def test_where_none_can_stand_in_it_is_an_error(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.beton"
    content = bytearray((folder / "train.beton").read_bytes())
    beton = open_beton(folder / "train.beton")
    for sample in np.flatnonzero(beton.labels == 3):
        start = int(beton.pointers[sample])
        content[start : start + 20] = bytes(20)
    path.write_bytes(content)
    manifest_path(path).write_bytes(manifest_path(folder / "train.beton").read_bytes())
    sample = int(np.flatnonzero(beton.labels == 3)[0])
    with pytest.raises(BadSample, match="and none of its class after it can stand in for it"):
        ImageReader(open_beton(path), "skip").read(sample)


def _train(config: PretrainConfig, run: Path, stop_at: int = -1) -> Outcome:
    run.mkdir(exist_ok=True)
    return train(config, run, Placement(0, 1, 0, 1), lambda step: step == stop_at, Console(quiet=True))


def _with(config: PretrainConfig, on_bad: Literal["fail", "skip"]) -> PretrainConfig:
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, on_bad=on_bad),
        train=dataclasses.replace(config.train, global_batch=GLOBAL_BATCH, epochs=1),
    )


def test_training_fails_with_one_line_or_counts_and_goes_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    config = _with(small("vicreg", folder), "fail")
    line = r"train\.beton: sample [\d,]+ cannot be used \(.*`.* verify .*--data.on-bad skip"
    with pytest.raises(BadSample, match=line):
        _train(config, tmp_path / "run")
    skipping = _with(config, "skip")
    assert _train(skipping, tmp_path / "whole") is Outcome.FINISHED
    assert _train(skipping, tmp_path / "run", stop_at=3) is Outcome.STOPPED  # the run that had failed
    assert _train(skipping, tmp_path / "run") is Outcome.FINISHED
    counts = [[line["stand_ins"] for line in read_metrics(tmp_path / run)] for run in ("whole", "run")]
    assert counts[0] == counts[1] == sorted(counts[0])
    assert counts[0][-1] == _num_bad_met(skipping) > 0
    states = [checkpoint.load_newest(tmp_path / run / CHECKPOINTS) for run in ("whole", "run")]
    assert states[0] is not None
    assert states[1] is not None
    for name, tensor in states[0]["method"].items():
        assert torch.equal(tensor, states[1]["method"][name]), name


def _num_bad_met(config: PretrainConfig) -> int:
    """Bad samples of the first epoch, by the samples of its batches alone."""
    loader, bad = _loader(config, 0, 1, "beton", "shuffled"), bad_samples(Path(config.data.train).parent)
    found = sum(sample in bad for batch in loader.batches(0) for sample in batch.samples.tolist())
    loader.close()
    return found


def test_evaluations_fail(folder: Path) -> None:
    data = small("vicreg", folder).data
    path, bad = folder / "train.beton", bad_samples(folder)[2]
    with pytest.raises(BadSample, match=f"sample {bad} cannot be used"):
        list(centre_batches(data, path, [bad], batch_size=4, workers=1))
