"""Batches of sound: the stretches that were drawn, the same on any rank, thread and starting point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataprep.beton.contract import open_beton
from dataprep.beton.manifest import channel_statistics
from tests import tones
from vicreg.config import DataConfig, ViewConfig
from vicreg.data.batches import Batch
from vicreg.data.channels import fitted_to_channels
from vicreg.data.loaders import ViewLoader, centre_batches, open_views
from vicreg.methods.vicreg import RECIPES
from vicreg.sound_config import SoundViewConfig
from vicreg.views.sound import SoundPlan
from vicreg.views.view_parameters import Key

VIEWS = (ViewConfig(sound=SoundViewConfig(crop=0.2)), ViewConfig(sound=SoundViewConfig(crop=0.0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tones.write(tmp_path_factory.mktemp("tones"), 8)


def _data(folder: Path, **changes: Any) -> DataConfig:
    data = DataConfig(train=str(folder / "train.beton"), val=str(folder / "val.beton"), mean=(0.0,), std=(0.2,))
    return replace(data, **changes)


def _open(folder: Path, rank: int = 0, world_size: int = 1, workers: int = 1, **changes: object) -> ViewLoader:
    return open_views(
        _data(folder, **changes),
        folder / "train.beton",
        VIEWS,
        seed=3,
        global_batch=8,
        rank=rank,
        world_size=world_size,
        device=torch.device("cpu"),
        workers=workers,
    )


def _same(one: Batch, other: Batch) -> bool:
    pairs = zip([*one.views, one.labels, one.samples], [*other.views, other.labels, other.samples], strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_views_are_the_drawn_stretches_of_their_clips(folder: Path) -> None:
    beton = open_beton(folder / "train.beton")
    loader = _open(folder)
    assert (loader.num_samples, loader.num_classes, loader.num_batches) == (24, 4, 3)
    for batch in loader.batches(2):
        samples = batch.samples.numpy()
        assert np.array_equal(beton.labels[samples], batch.labels)
        assert [view.shape for view in batch.views] == [(8, 1, 800), (8, 1, 1_000)]
        starts = SoundPlan.draw(VIEWS[0].sound, Key(3, 2, samples, 0), 1_000, 800).starts
        for row, (sample, start) in enumerate(zip(samples.tolist(), starts.tolist(), strict=True)):
            clip = beton.decode(sample)[0, :, 0]
            np.testing.assert_array_equal(batch.views[0][row, 0], clip[start : start + 800])
            np.testing.assert_array_equal(batch.views[1][row, 0], clip)


@pytest.mark.parametrize("order", ["shuffled", "blocks"])
def test_ranks_threads_and_the_beginning_have_no_part_in_it(folder: Path, order: str) -> None:
    changes = {"order": order, "block_samples": 4}
    whole = list(_open(folder, **changes).batches(1))
    for begin in (0, 1, 2):
        later = list(_open(folder, workers=3, **changes).batches(1, begin))
        assert all(_same(*pair) for pair in zip(whole[begin:], later, strict=True))
    parts = [list(_open(folder, rank, 2, **changes).batches(1)) for rank in range(2)]
    for number, batch in enumerate(whole):
        for view in range(2):
            joined = torch.cat([part[number].views[view] for part in parts])
            assert torch.equal(joined, batch.views[view])


def test_evaluations_get_whole_clips(folder: Path) -> None:
    beton = open_beton(folder / "val.beton")
    found = list(centre_batches(_data(folder), beton.path, range(8), batch_size=3, workers=1))
    clips = torch.cat([clips for clips, _, _ in found])
    assert [len(clips) for clips, _, _ in found] == [3, 3, 2]
    assert (clips.dtype, clips.shape) == (torch.int16, (8, 1, 1_000))
    for sample in range(8):
        np.testing.assert_array_equal(clips[sample, 0], beton.decode(sample)[0, :, 0])


def test_a_configuration_fits_itself_to_sound(folder: Path) -> None:
    recipe = RECIPES["spoken-digits"].pretrain
    config = fitted_to_channels(replace(recipe, data=replace(recipe.data, train=str(folder / "train.beton"))))
    assert (config.model.channels, config.model.sound.rate_hz, config.model.sound.clip_samples) == (1, 4_000, 1_000)
    assert (config.data.mean, config.data.std) == channel_statistics(folder / "train.beton")
    assert config.views == recipe.views


def test_a_bad_clip_is_named_or_skipped(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "train.beton").read_bytes())
    place = int(open_beton(folder / "train.beton").pointers[5])
    content[place] ^= 0xFF
    for name in ("val.beton", "val.beton.json", "train.beton.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "train.beton").write_bytes(content)
    loader = _open(tmp_path, on_bad="skip")
    stand_ins = sum(loader.num_stand_ins(batch) for batch in loader.batches(0))
    assert stand_ins == 1
