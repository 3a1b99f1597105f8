"""Shipped planes become the pixels that Pillow decodes, bit for bit, whatever kind of JPEG they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dataprep.beton.contract import Beton, open_beton
from dataprep.sources import class_folders as sources
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.vicreg.photos import photos
from vicreg.config import DataConfig, each_view, official_views
from vicreg.data import planes as planes_module
from vicreg.data.batches import Sampling
from vicreg.data.loaders import BetonViews
from vicreg.data.planes import Planes

CPU = torch.device("cpu")
SIDES = [
    (1, 1),
    (1, 9),
    (2, 2),
    (4, 4),
    (5, 5),
    (6, 6),
    (7, 3),
    (3, 7),
    (8, 15),
    (17, 33),
    (16, 16),
    (100, 101),
    (301, 199),
]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Beton:
    """Every side with colours at half, at full and at half the width only, progressive, grey, and noise."""
    folder = tmp_path_factory.mktemp("planes")
    (folder / "images" / "all").mkdir(parents=True)
    photo, rng = Image.fromarray(photos(1, 427)[0]), np.random.default_rng(0)
    for number, (height, width) in enumerate(SIDES):
        small = photo.resize((width, height))
        noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        name = str(folder / "images" / "all" / f"{number:02d}")
        small.save(f"{name}_half.jpg", quality=90, subsampling=2)
        small.save(f"{name}_width.jpg", quality=90, subsampling=1)
        small.save(f"{name}_full.jpg", quality=90, subsampling=0)
        small.save(f"{name}_progressive.jpg", quality=75, subsampling=2, progressive=True)
        small.convert("L").save(f"{name}_grey.jpg", quality=90)
        noise.save(f"{name}_noise.jpg", quality=100, subsampling=2)
    write_beton(sources.folder(folder / "images"), folder / "all.beton", WritePlan("passthrough"), num_workers=0)
    return open_beton(folder / "all.beton")


def _batches(beton: Beton, batch: int) -> list[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Planes]]:
    sampling = Sampling(np.arange(beton.num_samples), each_view(official_views(), 32), seed=1, global_batch=batch)
    loader = BetonViews(beton, sampling, DataConfig(), device=CPU, workers=2)
    return [(drawn.samples, planes) for drawn, planes in loader.decoded(0)]


@pytest.mark.parametrize("block_bytes", [planes_module.BLOCK_BYTES, 1])
def test_pixels_are_pillows(jpegs: Beton, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes_module, "BLOCK_BYTES", block_bytes)
    seen, whole = [], 0
    for samples, planes in _batches(jpegs, 13):
        images = planes.to(CPU).rgb()
        assert images.shape[:2] == (len(planes), 3)
        whole += len(planes.whole)
        for image, sample in zip(images, samples.tolist(), strict=True):
            expected = torch.from_numpy(jpegs.decode(sample)).permute(2, 0, 1)
            assert torch.equal(image[:, : expected.shape[1], : expected.shape[2]], expected), jpegs.widths[sample]
            seen.append(sample)
    assert sorted(seen) == list(range(jpegs.num_samples))
    narrow = sum(width <= 4 for _, width in SIDES)
    assert whole == 2 * len(SIDES) + 4 * narrow, "only other kinds of JPEG are shipped as RGB"


def test_every_colour(jpegs: Beton) -> None:
    """All values of Cb and Cr, beside the exact formula in integers; libjpeg's own tables (jdcolor.c)."""
    cb, cr = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    chroma = torch.stack([cb, cr]).to(torch.uint8)[None].repeat_interleave(3, 2).repeat_interleave(3, 3)
    luma = torch.full((1, 2 * 768 - 2, 2 * 768 - 2), 120, dtype=torch.uint8)
    found = Planes(luma, chroma, {}).rgb()[0, :, 2::6, 2::6].int()  # the middle of each patch of 3 x 3
    blue, red = cb.int() - 128, cr.int() - 128
    expected = torch.stack(
        [
            (91881 * red + 32768) >> 16,
            (-22554 * blue - 46802 * red + 32768) >> 16,
            (116130 * blue + 32768) >> 16,
        ]
    )
    assert torch.equal(found, (expected + 120).clamp(0, 255).int())
