"""Any number of views of any sizes: the first two draw what they drew when there were two, on every path."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataprep.beton.contract import open_beton
from tests.vicreg.photos import photos, write_photos
from vicreg.config import DataConfig, ViewConfig, each_view, official_views
from vicreg.data.batches import Batch, Sampling
from vicreg.data.beton_views import BetonViews
from vicreg.data.decode import ImageReader, StoredBytes
from vicreg.data.loaders import open_views
from vicreg.views.view_parameters import Colour, draw_colour

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "views.npz")
CPU = torch.device("cpu")
NUM = 24
CONFIG = DataConfig(image_size=32, eval_resize=40)
MULTI_CROP = (*official_views(), ViewConfig(16, 6, crop_scale=(0.05, 0.14), blur_p=0.5))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("mixed"), photos(NUM))


@pytest.mark.parametrize("views", [official_views(), MULTI_CROP])
def test_the_official_pair_draws_what_it_always_drew(views: tuple[ViewConfig, ...]) -> None:
    """Boxes and colours as they were when there were two views and no list of them (commit b4f5da7)."""
    widths, heights = GOLDEN["widths"], GOLDEN["heights"]
    sampling = Sampling(np.arange(len(widths)), each_view(views, 224), seed=11, global_batch=16)
    drawn = list(sampling.draw(3, sampling.places(3), widths, heights))
    assert np.array_equal([batch.samples for batch in drawn], GOLDEN["samples"])
    for view in range(2):
        assert np.array_equal([batch.geometry[view].boxes for batch in drawn], GOLDEN[f"boxes_{view}"])
        assert np.array_equal([batch.geometry[view].flip for batch in drawn], GOLDEN[f"flip_{view}"])
        colours = [draw_colour(views[view], 11, 3, batch.samples, view) for batch in drawn]
        assert not any(c.rand_operations.size or c.rand_amounts.size for c in colours)
        for field in fields(Colour):
            if field.name.startswith("rand_"):
                continue
            assert np.array_equal([getattr(c, field.name) for c in colours], GOLDEN[f"{field.name}_{view}"])


def test_each_view_has_its_number_and_size() -> None:
    each = each_view(MULTI_CROP, 32)
    assert [view.image_size for view in each] == [32, 32] + 6 * [16]
    assert each_view(each, 99) == each
    assert each_view((replace(MULTI_CROP[0], count=0), MULTI_CROP[1]), 32) == (each[1],)


def _open(
    beton: Path, config: DataConfig = CONFIG, views: tuple[ViewConfig, ...] = MULTI_CROP, **changes: int
) -> list[Batch]:
    sizes = {"seed": 1, "global_batch": 8, "rank": 0, "world_size": 1, "workers": 2} | changes
    loader = open_views(config, beton, views, device=CPU, **sizes)
    batches = list(loader.batches(2))
    loader.close()
    return batches


def _by_sample(batches: list[Batch]) -> dict[int, list[torch.Tensor]]:
    return {
        sample: [view[place] for view in batch.views]
        for batch in batches
        for place, sample in enumerate(batch.samples.tolist())
    }


def _assert_equal(first: dict[int, list[torch.Tensor]], second: dict[int, list[torch.Tensor]]) -> None:
    assert sorted(first) == sorted(second)
    for sample, views in first.items():
        for mine, theirs in zip(views, second[sample], strict=False):
            assert torch.equal(mine, theirs)


def test_sizes_and_the_first_two_views(mixed: Path) -> None:
    batches = _open(mixed)
    shapes = [view.shape for view in batches[0].views]
    assert shapes == 2 * [(8, 3, 32, 32)] + 6 * [(8, 3, 16, 16)]
    assert len(batches[0].colour) == 8
    little = batches[0].views[2:]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(little))
    _assert_equal(_by_sample(_open(mixed, views=official_views())), _by_sample(batches))


@pytest.mark.parametrize("order", ["shuffled", "blocks"])
def test_the_same_on_any_number_of_ranks_and_in_the_array(mixed: Path, order: str) -> None:
    config = replace(CONFIG, order=order, block_samples=4)
    alone = _by_sample(_open(mixed, config))
    parts: dict[int, list[torch.Tensor]] = {}
    for rank in range(4):
        parts |= _by_sample(_open(mixed, config, rank=rank, world_size=4))
    _assert_equal(parts, alone)
    squares = [_by_sample(_open(mixed, replace(config, loader="array"), rank=rank, world_size=2)) for rank in range(2)]
    _assert_equal(squares[0] | squares[1], _by_sample(_open(mixed, replace(config, loader="array"))))


def test_images_are_decoded_once_for_all_views(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    decode = ImageReader.read

    def count(self: ImageReader, sample: int, stored: StoredBytes | None = None) -> object:
        read.append(sample)
        return decode(self, sample, stored)

    monkeypatch.setattr(ImageReader, "read", count)
    _open(mixed)
    assert sorted(read) == list(range(NUM))


def test_the_path_of_gpus_makes_the_same_views(mixed: Path) -> None:
    opened = open_beton(mixed)
    sampling = Sampling(np.arange(NUM), each_view(MULTI_CROP, 32), seed=1, global_batch=8)
    shipped = BetonViews(opened, sampling, CONFIG, device=CPU, workers=2, crop_on_device=True)
    for ours, theirs in zip(shipped.batches(2), _open(mixed), strict=True):
        for mine, other in zip(ours.views, theirs.views, strict=True):
            assert mine.shape == other.shape
            assert ((mine.int() - other.int()).abs() > 1).float().mean() < 4e-3


def test_views_without_a_size_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry for each view, with its size"):
        Sampling(np.arange(8), official_views(), 0, 4)
