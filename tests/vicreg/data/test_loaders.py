"""Loaders: the same views however the work is divided, errors that surface, no thread and no batch left behind."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from dataprep.beton.contract import open_beton
from tests.vicreg.photos import ROOT, photos, write_photos
from vicreg.config import DataConfig, ViewConfig, each_view, official_views
from vicreg.data import array_views
from vicreg.data.batches import Batch, Sampling, in_order, split_tasks
from vicreg.data.buffers import Buffers
from vicreg.data.decode import DecodeError
from vicreg.data.loaders import (
    ArrayViews,
    BetonViews,
    ViewLoader,
    centre_batches,
    default_workers,
    open_views,
)
from vicreg.ranks.distributed import Placement
from vicreg.views.augment import augment

NUM = 24
CPU = torch.device("cpu")
CONFIG = DataConfig(image_size=32, eval_resize=40)
ARRAY = dataclasses.replace(CONFIG, loader="array")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of many sizes."""
    return write_photos(tmp_path_factory.mktemp("mixed"), photos(NUM))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw pixels, all of one size."""
    return write_photos(tmp_path_factory.mktemp("squares"), photos(NUM, 48), "raw")


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not _decoding_threads()


def _decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vicreg-decode")]


def _open(beton: Path, config: DataConfig = CONFIG, **changes: object) -> ViewLoader:
    arguments: dict[str, object] = {
        "seed": 1,
        "global_batch": 8,
        "rank": 0,
        "world_size": 1,
        "device": CPU,
        "workers": 2,
    }
    return open_views(config, beton, official_views(), **(arguments | changes))


def _by_sample(batches: list[Batch]) -> dict[int, torch.Tensor]:
    """The augmented views (num_views, 3, S, S) of each sample."""
    found = {}
    for batch in batches:
        views = torch.stack(
            [augment(*pair, (0.5,) * 3, (0.2,) * 3) for pair in zip(batch.views, batch.colour, strict=True)]
        )
        for place, sample in enumerate(batch.samples.tolist()):
            assert sample not in found
            found[sample] = torch.cat([torch.stack(batch.views)[:, place].float(), views[:, place]])
    return found


def test_what_a_batch_is(mixed: Path) -> None:
    loader = _open(mixed, global_batch=5)
    assert (loader.num_samples, loader.num_batches) == (NUM, 4)
    batches = list(loader.batches(0))
    assert len(batches) == 4
    for batch in batches:
        assert [view.shape for view in batch.views] == 2 * [(5, 3, 32, 32)]
        assert all(view.dtype == torch.uint8 for view in batch.views)
        assert len(batch.colour) == 2
        assert torch.equal(batch.labels, (batch.samples >= NUM // 2).long())
        assert len(batch.to(CPU).views) == 2
    assert len(torch.cat([batch.samples for batch in batches]).unique()) == 20
    loader.close()


@settings(max_examples=12, deadline=None)
@given(
    world_size=st.sampled_from([1, 2, 4]),
    workers=st.integers(1, 3),
    first_batch=st.integers(0, 3),
    ahead=st.integers(1, 4),
    config=st.sampled_from([CONFIG, ARRAY]),
)
def test_views_do_not_depend_on_ranks_workers_or_start(
    squares: Path, world_size: int, workers: int, first_batch: int, ahead: int, config: DataConfig
) -> None:
    expected = [_by_sample([batch]) for batch in _open(squares, config).batches(3)]
    config = dataclasses.replace(config, batches_ahead=ahead)
    per_rank = [
        list(_open(squares, config, rank=rank, world_size=world_size, workers=workers).batches(3, first_batch))
        for rank in range(world_size)
    ]
    for number, parts in enumerate(zip(*per_rank, strict=True), start=first_batch):
        whole = _by_sample(list(parts))
        assert whole.keys() == expected[number].keys()
        for sample, views in whole.items():
            assert torch.equal(views[:2], expected[number][sample][:2])  # the crops, bit for bit
            assert torch.allclose(views, expected[number][sample], atol=1e-4)


def test_another_batch_size_gives_the_same_views(mixed: Path) -> None:
    small, large = (_by_sample(list(_open(mixed, global_batch=size).batches(0))) for size in (4, 12))
    assert small.keys() == large.keys()
    for sample in small:
        assert torch.allclose(small[sample], large[sample], atol=1e-4)


def test_epochs_seeds_and_views_differ(squares: Path) -> None:
    loader = _open(squares)
    first, second = (_by_sample(list(loader.batches(epoch))) for epoch in (0, 1))
    assert list(first) != list(second)
    assert sum(torch.equal(first[sample], second[sample]) for sample in first) == 0
    assert all(not torch.equal(views[0], views[1]) for views in first.values())
    other_seed = _by_sample(list(_open(squares, seed=2).batches(0)))
    assert list(first) != list(other_seed)


def test_a_subset_is_all_that_is_seen_and_augmented_as_ever(squares: Path) -> None:
    subset = np.array([20, 3, 7, 11, 2, 19])
    everything = _by_sample(list(_open(squares).batches(0)))
    for config in (CONFIG, ARRAY):
        loader = _open(squares, config, subset=subset, global_batch=3)
        assert (loader.num_samples, loader.num_batches) == (6, 2)
        found = _by_sample(list(loader.batches(0)))
        assert sorted(found) == sorted(subset.tolist())
        for sample, views in found.items():
            assert torch.allclose(views, everything[sample], atol=1e-4)
    with pytest.raises(ValueError, match=r"subset is .*allowed: samples of"):
        _open(squares, subset=np.array([NUM]), global_batch=1)


def test_beton_and_array_agree(squares: Path) -> None:
    from_beton, from_array = (_by_sample(list(_open(squares, config).batches(2))) for config in (CONFIG, ARRAY))
    for sample, views in from_beton.items():
        assert torch.equal(views, from_array[sample])


def test_crops_on_the_device_are_the_same(mixed: Path) -> None:
    """The path for GPUs: whole images are shipped; within 1/255 but for what the kernel rounds between its passes."""
    opened = open_beton(mixed)
    sampling = Sampling(np.arange(NUM), each_view(official_views(), 32), seed=1, global_batch=8)
    shipped = BetonViews(opened, sampling, CONFIG, device=CPU, workers=2, crop_on_device=True)
    expected = list(_open(mixed).batches(0))
    for ours, theirs in zip(shipped.batches(0), expected, strict=True):
        assert torch.equal(ours.samples, theirs.samples)
        assert torch.equal(ours.labels, theirs.labels)
        difference = (torch.stack(ours.views).int() - torch.stack(theirs.views).int()).abs()
        assert (difference > 1).float().mean() < 2e-3
        assert difference.max() <= 8
    for drawn, planes in shipped.decoded(0):
        images = planes.to(CPU).rgb()
        for place, sample in enumerate(drawn.samples.tolist()):
            height, width = opened.heights[sample], opened.widths[sample]
            assert np.array_equal(images[place, :, :height, :width].permute(1, 2, 0).numpy(), opened.decode(sample))


def test_an_array_of_images_of_many_sizes(mixed: Path) -> None:
    """The shorter side is resized to eval_resize, the centre kept; boxes are drawn in that square."""
    loader = _open(mixed, ARRAY)
    assert isinstance(loader, ArrayViews)
    assert loader._images.shape == (NUM, 40, 40, 3)
    pillow = CenterCrop(40)(
        Resize(40, interpolation=Image.Resampling.BICUBIC)(Image.fromarray(open_beton(mixed).decode(5)))
    )
    assert abs(loader._images[5].numpy().astype(int) - np.asarray(pillow)).max() <= 4
    assert len(list(loader.batches(0))) == 3
    loader.close()


def test_an_array_that_does_not_fit_is_refused(squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = NUM * 48 * 48 * 3
    monkeypatch.setattr(array_views, "free_bytes", lambda device: 2 * needed)
    _open(squares, ARRAY).close()
    monkeypatch.setattr(array_views, "free_bytes", lambda device: 2 * needed - 1)
    with pytest.raises(ValueError, match=rf"takes {needed:,} bytes as 24 images of 48 x 48.*use loader 'beton'"):
        _open(squares, ARRAY)


def test_digits_become_32_pixel_views(digits_folder: Path) -> None:
    view = ViewConfig(crop_scale=(0.5, 1.0), hflip_p=0.0)
    for loader in ("beton", "array"):
        config = dataclasses.replace(CONFIG, loader=loader)
        opened = open_views(
            config, digits_folder / "train.beton", (view, view), seed=0, global_batch=64, rank=0, world_size=1,
            device=CPU, workers=1,
        )  # fmt: skip
        batch = next(opened.batches(0))
        assert [view.shape for view in batch.views] == 2 * [(64, 3, 32, 32)]
        assert torch.stack(batch.views).float().std() > 50
        opened.close()


@pytest.mark.parametrize("crop_on_device", [False, True])
def test_a_damaged_sample_is_an_exception_in_the_consumer(mixed: Path, tmp_path: Path, crop_on_device: bool) -> None:
    opened = open_beton(mixed)
    sample = 13
    content = bytearray(mixed.read_bytes())
    start = int(opened.pointers[sample])
    content[start : start + 200] = bytes(200)
    path = tmp_path / "damaged.beton"
    path.write_bytes(content)
    sampling = Sampling(np.arange(NUM), each_view(official_views(), 32), seed=1, global_batch=4)
    loader = BetonViews(open_beton(path), sampling, CONFIG, device=CPU, workers=2, crop_on_device=crop_on_device)
    seen: list[int] = []
    with pytest.raises(DecodeError, match=rf"damaged.beton: sample {sample} cannot be used .*verify"):
        seen.extend(sample for batch in loader.batches(0) for sample in batch.samples.tolist())
    assert sample not in seen
    assert not _decoding_threads()
    with pytest.raises(DecodeError, match="sample 13 "):
        list(centre_batches(CONFIG, path, range(NUM), batch_size=4, workers=2))


def test_leaving_an_epoch_leaves_no_thread(mixed: Path) -> None:
    loader = _open(mixed, global_batch=2)
    for _ in loader.batches(0):
        assert _decoding_threads()
        break
    gc.collect()
    assert not _decoding_threads()
    running = loader.batches(1)
    next(running)
    assert _decoding_threads()
    loader.close()
    assert not _decoding_threads()
    assert list(running) == []


def test_two_loaders_at_a_time(mixed: Path, squares: Path) -> None:
    expected = [_by_sample(list(_open(beton).batches(0))) for beton in (mixed, squares)]
    together = zip(
        _open(mixed).batches(0),
        _open(squares).batches(0),
        centre_batches(CONFIG, mixed, range(NUM), batch_size=8, workers=1),
        strict=True,
    )
    found: list[list[Batch]] = [[], []]
    for first, second, (images, _, _) in together:
        found[0].append(first)
        found[1].append(second)
        assert images.shape == (8, 3, 32, 32)
    for batches, wanted in zip(found, expected, strict=True):
        for sample, views in _by_sample(batches).items():
            assert torch.allclose(views, wanted[sample], atol=1e-4)


def test_a_batch_that_is_held_is_not_overwritten(squares: Path) -> None:
    loader = _open(squares, global_batch=4)
    held, copies = [], []
    for epoch in range(3):
        for batch in loader.batches(epoch):
            held.append(batch.views[0][1:])  # a part of the batch is enough
            copies.append(held[-1].clone())
    assert all(torch.equal(*pair) for pair in zip(held, copies, strict=True))


def test_memory_is_used_again_and_bounded(squares: Path) -> None:
    loader = _open(squares, dataclasses.replace(CONFIG, batches_ahead=2), global_batch=2)
    places = {batch.views[0].data_ptr() for epoch in range(4) for batch in loader.batches(epoch)}
    assert len(places) <= 2 + 3  # ahead, the one in use, and up to two on their way


def test_buffers_come_back_when_the_last_view_is_gone() -> None:
    buffers = Buffers(pinned=False)
    first = buffers.take((2, 3))
    place, part = first.data_ptr(), first[1].view(3)
    del first
    other = buffers.take((2, 3))
    assert other.data_ptr() != place
    del part
    assert buffers.take((3, 2)).data_ptr() == place
    assert buffers.take((100,)).shape == (100,)


def test_results_come_in_order_and_errors_at_their_place() -> None:
    def fail(number: int) -> None:
        if number == 1:
            raise RuntimeError("task 1")

    jobs = [(name, split_tasks(work, 3)) for name, work in [("a", abs), ("b", abs), ("c", fail), ("d", abs)]]
    seen = []
    with pytest.raises(RuntimeError, match="task 1"):
        seen.extend(in_order(jobs, workers=2, ahead=3))
    assert list(in_order(jobs[:2], workers=1, ahead=0)) == ["a", "b"]


@pytest.mark.parametrize(("resize", "size"), [(40, 32), (256, 224)])
@pytest.mark.parametrize(("batch_size", "samples"), [(5, range(NUM)), (7, range(3, 20)), (64, [4, 2, 9])])
def test_evaluation_sees_every_sample_once_in_order(
    mixed: Path, resize: int, size: int, batch_size: int, samples: list[int]
) -> None:
    """Within 1/255 of torchvision's Resize and CenterCrop on Pillow images, most of which are not square."""
    opened = open_beton(mixed)
    assert sum(opened.widths[list(samples)] != opened.heights[list(samples)]) > len(samples) / 2
    config = dataclasses.replace(CONFIG, image_size=size, eval_resize=resize)
    batches = list(centre_batches(config, mixed, samples, batch_size=batch_size, workers=2))
    assert [len(batch[0]) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.cat([batch[2] for batch in batches]).tolist() == list(samples)
    transform = torch.nn.Sequential(Resize(resize), CenterCrop(size))
    for images, labels, numbers in batches:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, size, size)
        for image, label, sample in zip(images, labels.tolist(), numbers.tolist(), strict=True):
            assert label == opened.labels[sample]
            expected = np.asarray(transform(Image.fromarray(opened.decode(sample))))
            assert abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_label_vectors_come_along(tmp_path: Path) -> None:
    """What an evaluation of several labels gets, and what pretraining on such a beton must not stumble over."""
    command = [sys.executable, "dataprep/write_ffcv.py", "digits", "--multi-label", "--split", "val"]
    subprocess.run([*command, "--out", str(tmp_path), "--limit", "50"], cwd=ROOT, check=True, capture_output=True)
    path = tmp_path / "val.beton"
    expected = torch.from_numpy(open_beton(path).labels)
    assert expected.shape == (50, 5)
    evaluated = list(centre_batches(CONFIG, path, range(50), batch_size=16, workers=2))
    assert torch.equal(torch.cat([labels for _, labels, _ in evaluated]), expected)
    for config in (CONFIG, ARRAY):
        for batch in _open(path, config).batches(0):
            assert torch.equal(batch.labels, expected[batch.samples])


def test_workers_come_from_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    assert default_workers() == 12
    assert [Placement(0, 4, 0, ranks).num_threads for ranks in (1, 4, 5, 99)] == [12, 3, 2, 1]
    assert [Placement(0, 4, 0, 4, cpus).num_threads for cpus in (1, 10, 99)] == [1, 10, 12]


def test_bad_arguments_are_named(squares: Path) -> None:
    with pytest.raises(ValueError, match="global_batch is 25, allowed: 1 to the number of samples, 24"):
        _open(squares, global_batch=25)
    with pytest.raises(ValueError, match="global_batch is 9, allowed: multiples of the number of ranks, 2"):
        _open(squares, global_batch=9, world_size=2)
    with pytest.raises(ValueError, match="first_batch is 4, allowed: 0 to 3"):
        list(_open(squares).batches(0, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", [CONFIG, ARRAY])
def test_batches_on_a_gpu(mixed: Path, config: DataConfig) -> None:
    cuda = torch.device("cuda")
    on_gpu = list(_open(mixed, config, device=cuda).batches(0))
    for ours, theirs in zip(on_gpu, _open(mixed, config).batches(0), strict=True):
        assert ours.views[0].device.type == "cuda"
        assert torch.equal(ours.samples.cpu(), theirs.samples)
        assert ((torch.stack(ours.views).cpu().int() - torch.stack(theirs.views).int()).abs() > 1).float().mean() < 2e-3
