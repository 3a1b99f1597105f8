"""Centres that the device cuts out of decoded photos, against the CPU's kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dataprep.beton.contract import open_beton
from tests.vicreg.photos import photos, write_photos
from vicreg.config import DataConfig
from vicreg.data import plane_batches
from vicreg.data.decode import ImageReader
from vicreg.data.device_centres import centres_on_device, cut_centres
from vicreg.data.loaders import centre_batches

CPU = torch.device("cpu")


@pytest.mark.parametrize(("short_side", "size"), [(64, 56), (32, 32), (300, 224)])
def test_they_are_the_cpus_but_for_roundings(short_side: int, size: int, tmp_path: Path) -> None:
    path = write_photos(tmp_path, photos(6))
    config = DataConfig(image_size=size, eval_resize=short_side)
    expected = torch.cat([images for images, *_ in centre_batches(config, path, range(6), batch_size=4, workers=1)])
    reader = ImageReader(open_beton(path))
    parts = list(centres_on_device(config, reader, range(6), CPU, 4, 1))
    assert np.concatenate([samples for _, samples in parts]).tolist() == list(range(6))
    apart = (torch.cat([images for images, _ in parts]).int() - expected.int()).abs()
    assert apart.max() <= 2
    assert (apart > 1).float().mean() < 1e-4
    assert apart.float().mean() < 0.02


def test_what_lies_outside_an_image_has_no_part_in_it() -> None:
    image = torch.randint(256, (1, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded = torch.full((1, 3, 64, 70), 255, dtype=torch.uint8)
    padded[:, :, :40, :50] = image
    sides = np.array([40]), np.array([50])
    assert torch.equal(cut_centres(padded, *sides, 20, 16), cut_centres(image, *sides, 20, 16))


def test_only_photos_of_a_size_that_can_be_shipped_are_cut_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beton = open_beton(write_photos(tmp_path, photos(4, 64)))
    gpu, samples = torch.device("cuda", 0), np.arange(4)
    assert plane_batches.can_be_shipped(beton, samples, 4, gpu)
    assert not plane_batches.can_be_shipped(beton, samples, 4, CPU)
    monkeypatch.setattr(plane_batches, "MAX_SHIPPED_BYTES", 4 * 64 * 64 * 3 // 2 - 1)
    assert not plane_batches.can_be_shipped(beton, samples, 4, gpu)
