"""Reading by blocks: the same pixels, whatever lies where in the file; bounded memory; errors that surface."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.synthetic_beton import write_synthetic
from dataprep.beton.bytes import Memory
from dataprep.beton.contract import Beton, BetonError, open_beton
from tests.vicreg.photos import ROOT, photos, write_photos
from vicreg.config import DataConfig, official_views
from vicreg.data import block_reads
from vicreg.data.decode import DecodeError
from vicreg.data.loaders import BetonViews, ViewLoader, open_views

NUM = 48
CPU = torch.device("cpu")
CONFIG = DataConfig(image_size=32, eval_resize=40)
BLOCKS = dataclasses.replace(CONFIG, order="blocks", block_samples=3)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("jpegs"), photos(NUM))


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw pixels of 24 px; a sample's number says nothing of its place in the file."""
    path = tmp_path_factory.mktemp("scattered") / "scattered.beton"
    contents = [photo.tobytes() for photo in photos(7, 24)]
    write_synthetic(path, contents, np.arange(500) % 3, 24, raw=True, scatter=True)
    return path


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not _threads()


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vicreg-")]


def _open(beton: Path, config: DataConfig, **changes: object) -> ViewLoader:
    arguments: dict[str, object] = {"seed": 1, "global_batch": 4, "rank": 0, "world_size": 1, "workers": 2}
    return open_views(config, beton, official_views(), device=CPU, **(arguments | changes))


def _views(loader: ViewLoader, first_batch: int = 0) -> dict[int, torch.Tensor]:
    found = {}
    for batch in loader.batches(3, first_batch):
        for place, sample in enumerate(batch.samples.tolist()):
            assert sample not in found
            found[sample] = torch.stack([view[place] for view in batch.views])
    return found


@pytest.mark.parametrize("name", ["jpegs", "scattered"])
def test_the_same_views_of_every_sample_in_another_order(name: str, request: pytest.FixtureRequest) -> None:
    beton: Path = request.getfixturevalue(name)
    shuffled, blocks = _views(_open(beton, CONFIG)), _views(_open(beton, BLOCKS))
    num = open_beton(beton).num_samples
    assert sorted(blocks) == sorted(shuffled) == list(range(num))
    assert list(blocks) != list(shuffled)
    for sample, views in blocks.items():
        assert torch.equal(views, shuffled[sample])


@pytest.mark.ffcv
def test_files_of_ffcvs_own_writer(tmp_path: Path) -> None:
    """Two workers write in turns, so that samples need not be in the file's order."""
    from ffcv import fields
    from ffcv.writer import DatasetWriter

    images = photos(60, 40)

    class Samples:
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, sample: int) -> tuple[NDArray[np.uint8], int]:
            return images[sample], sample

    path = tmp_path / "theirs.beton"
    columns = {"image": fields.RGBImageField(write_mode="raw"), "label": fields.IntField()}
    DatasetWriter(str(path), columns, num_workers=2).from_indexed_dataset(Samples(), chunksize=3)
    loader = _open(path, BLOCKS)
    assert isinstance(loader, BetonViews)
    seen = {}
    for drawn, planes in loader.decoded(0):
        seen.update(zip(drawn.samples.tolist(), planes.rgb().permute(0, 2, 3, 1).numpy(), strict=True))
    assert len(seen) == len(images)
    for sample, image in seen.items():
        assert np.array_equal(image, images[sample])


@settings(max_examples=8, deadline=None)
@given(
    world_size=st.sampled_from([1, 2, 4]),
    first_batch=st.integers(0, 125),
    block_samples=st.sampled_from([1, 3, 16, 500]),
    loader=st.sampled_from(["beton", "array"]),
)
def test_ranks_and_start_change_nothing(
    scattered: Path, world_size: int, first_batch: int, block_samples: int, loader: str
) -> None:
    config = dataclasses.replace(BLOCKS, block_samples=block_samples, loader=loader)
    expected = list(_views(_open(scattered, dataclasses.replace(config, loader="beton"))).items())[4 * first_batch :]
    parts = [_views(_open(scattered, config, rank=r, world_size=world_size), first_batch) for r in range(world_size)]
    found = {sample: views for part in parts for sample, views in part.items()}
    assert found.keys() == dict(expected).keys()
    assert all(torch.equal(found[sample], views) for sample, views in expected)
    size = 4 // world_size
    assert [list(part)[:size] for part in parts if part] == [
        [sample for sample, _ in expected[r * size : (r + 1) * size]] for r in range(world_size) if expected
    ]


def test_a_subset_with_gaps_and_repetitions(scattered: Path) -> None:
    subset = np.array([400, 3, 77, 3, 250, 9, 9, 12])
    seen = [sample for batch in _open(scattered, BLOCKS, subset=subset).batches(0) for sample in batch.samples.tolist()]
    assert sorted(seen) == sorted(subset.tolist())


def test_memory_is_a_block_for_each_sample_of_a_batch(scattered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every sample is read once, its blocks by one request each."""
    alive, most, requests, read = 0, 0, 0, 0

    def gone(size: int) -> None:
        nonlocal alive
        alive -= size

    def watched(beton: Beton, samples: NDArray[np.int64], memory: Memory) -> dict[int, NDArray[np.uint8]]:
        nonlocal alive, most, requests, read
        part = read_images(beton, samples, memory)
        alive, requests, read = alive + len(part), requests + 1, read + len(part)
        most = max(most, alive)
        weakref.finalize(next(iter(part.values())).base, gone, len(part))
        return part

    read_images = Beton.read_images
    monkeypatch.setattr(Beton, "read_images", watched)
    config = dataclasses.replace(BLOCKS, block_samples=10)
    loader = _open(scattered, config, global_batch=5)
    seen = [sample for batch in loader.batches(0) for sample in batch.samples.tolist()]
    gc.collect()
    assert len(seen) == read == 500
    assert requests <= 500 / 10 + 2 * 5
    ahead = block_reads.BATCHES_AHEAD + config.batches_ahead + 3  # batches that are drawn and not yet handed out
    assert most <= 5 * 10 + 5 * ahead * 2
    assert alive == 0


def test_a_slow_disk_delays_the_end_of_an_epoch_and_loses_none_of_it(
    scattered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batches are handed out before their blocks have been read."""

    def slow(beton: Beton, samples: NDArray[np.int64], memory: Memory) -> dict[int, NDArray[np.uint8]]:
        time.sleep(0.02)
        return read_images(beton, samples, memory)

    read_images = Beton.read_images
    monkeypatch.setattr(Beton, "read_images", slow)
    config = dataclasses.replace(BLOCKS, block_samples=1)
    loader = _open(scattered, config, subset=np.arange(40))
    seen = [sample for batch in loader.batches(0) for sample in batch.samples.tolist()]
    assert sorted(seen) == list(range(40))


@pytest.mark.parametrize("crop_on_device", [False, True])
def test_a_file_that_shrinks_is_an_error_in_the_consumer(scattered: Path, tmp_path: Path, crop_on_device: bool) -> None:
    path = tmp_path / "shrinking.beton"
    path.write_bytes(scattered.read_bytes())
    loader = _open(path, BLOCKS)
    assert isinstance(loader, BetonViews)
    loader.crop_on_device = crop_on_device
    running = loader.batches(0)
    next(running)
    os.truncate(path, 1 << 21)
    with pytest.raises(BetonError, match=r"shrinking.beton: cut off while it was open, from [\d,]+ bytes to 2,097,152"):
        list(running)
    assert not _threads()


def test_an_unreadable_disk_is_an_error_in_the_consumer(scattered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    for config in (CONFIG, BLOCKS):
        loader = _open(scattered, config)
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", broken)
            with pytest.raises(BetonError, match=r"scattered.beton: byte [\d,]+ cannot be read \(Input/output error\)"):
                next(loader.batches(0))


def test_a_damaged_sample_is_named(jpegs: Path, tmp_path: Path) -> None:
    content = bytearray(jpegs.read_bytes())
    start = int(open_beton(jpegs).pointers[13])
    content[start : start + 200] = bytes(200)
    path = tmp_path / "damaged.beton"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match="sample 13 cannot be used"):
        list(_open(path, BLOCKS).batches(0))


def test_leaving_an_epoch_leaves_no_thread(scattered: Path) -> None:
    loader = _open(scattered, BLOCKS)
    for _ in loader.batches(0):
        assert any(name.startswith("vicreg-read") for name in _threads())
        break
    gc.collect()
    assert not _threads()
    running = loader.batches(1)
    next(running)
    loader.close()
    assert not _threads()
    assert list(running) == []


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from dataprep.beton.contract import BetonError, open_beton
from vicreg.config import DataConfig, official_views
from vicreg.data.loaders import open_views

path, order, margin = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + margin, used + margin))
config = DataConfig(image_size=32, eval_resize=40, order=order, block_samples=8)
cpu = torch.device("cpu")
loader = open_views(config, path, official_views(), seed=0, global_batch=8, rank=0, world_size=1, device=cpu, workers=2)
try:
    open_beton(path).memory
    sys.exit("the limit is too high: the file can be mapped")
except BetonError as error:
    assert "cannot be mapped" in str(error)
seen = []
for drawn, planes in loader.decoded(0):
    for number, sample in enumerate(drawn.samples.tolist()):
        image = planes.whole[number].numpy()
        assert image[0, 0].tolist() == [sample % 251] * 3, sample  # each content is of one level
        assert image.min() == image.max()
        seen.append(sample)
assert sorted(seen) == list(range(len(seen)))
print(len(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["blocks", "shuffled"])
def test_a_beton_larger_than_the_limit_on_memory(tmp_path: Path, order: str) -> None:
    """512 MiB of raw pixels, under a limit of 192 MiB above what the imports take, which rules out mapping it."""
    path, num, side = tmp_path / "large.beton", 2048, 256
    contents = [bytes([level]) * (side * side * 3) for level in range(251)]
    write_synthetic(path, contents, np.arange(num) % 10, side, raw=True, scatter=True)
    assert path.stat().st_size > 2 * (192 << 20)
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, str(path), order, str(192 << 20)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(num)
