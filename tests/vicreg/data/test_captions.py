"""Captions as views: beside a slow loop over all captions of each sample, and where a field is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataprep.beton.captions import CAPTIONS
from dataprep.beton.contract import BadSample, open_beton
from dataprep.sources import digit_captions
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from vicreg.data.captions import TASK_CAPTIONS, CaptionReader, captions_of
from vicreg.views.captions import MAX_WORDS, drawn_captions, write_words

SEED, EPOCH, VIEW = 3, 5, 1


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "val.beton"
    write_beton(digit_captions.open_split("val"), path, WritePlan("raw", 32, 90), num_workers=0)
    return path


def test_a_view_is_the_drawn_caption_of_each_sample(beton: Path) -> None:
    opened = open_beton(beton)
    samples = np.random.default_rng(0).permutation(opened.num_samples)[: 2 * TASK_CAPTIONS + 3]
    view, tasks = CaptionReader(opened, SEED, VIEW).view(EPOCH, samples)
    for task in reversed(tasks):
        task()
    expected = np.empty((len(samples), MAX_WORDS), np.int64)
    for row, sample in zip(expected, samples, strict=True):
        captions = captions_of(opened, int(sample))
        chosen = drawn_captions(SEED, EPOCH, np.array([sample]), VIEW, np.array([len(captions)]))
        write_words(row, captions[int(chosen[0])])
    assert np.array_equal(view.values.numpy(), expected)


@pytest.mark.parametrize(("offset", "value", "said"), [(0, 200, "for 200 captions"), (-1, 0xFF, "not UTF-8")])
def test_a_damaged_field_names_its_sample(beton: Path, tmp_path: Path, offset: int, value: int, said: str) -> None:
    content = bytearray(beton.read_bytes())
    place = open_beton(beton).more[CAPTIONS][7]
    content[int(place["ptr"]) + offset % int(place["size"])] = value
    damaged = tmp_path / "val.beton"
    damaged.write_bytes(content)
    reader, samples = CaptionReader(open_beton(damaged), SEED, VIEW), np.arange(9)
    tasks = [task for epoch in range(20) for task in reader.view(epoch, samples)[1]]  # one epoch draws the damaged one
    with pytest.raises(BadSample, match=f"sample 7 cannot be used .*{said}"):
        [task() for task in tasks]
