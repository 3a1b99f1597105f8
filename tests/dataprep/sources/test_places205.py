"""Places205 in its published layout, in what users make of it, and what is said when something is missing."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from dataprep.beton.contract import open_beton
from dataprep.sources.places205 import open_split
from dataprep.writing.raw_source import SourceError
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_images import encoded, picture

IMAGES = "data/vision/torralba/deeplearning/images256"
LISTS = "trainvalsplit_places205"
LINES = (
    "a/abbey/gsun_2.jpg 0",
    "c/church/outdoor/b.jpg 44",
    "a/abbey/gsun 1.jpg 0",  # a space in a name
    "y/yard/x.jpg 204",
)


def write_list(root: Path, lines: tuple[str, ...] = LINES, split: str = "train", folder: str = LISTS) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / f"{split}_places205.csv").write_text("\n".join(lines) + "\n")


def write_photos(root: Path, images: str = IMAGES) -> None:
    for number, line in enumerate(LINES):
        path = root / images / line.rsplit(maxsplit=1)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number), quality=80))


@pytest.mark.parametrize("images", [IMAGES, "images256", ".", f"imagesPlaces205_resize/{IMAGES}"])
@pytest.mark.parametrize("lists", [LISTS, "."])
def test_the_list_says_what_there_is(tmp_path: Path, images: str, lists: str) -> None:
    write_list(tmp_path, folder=lists)
    write_photos(tmp_path, images)
    source = open_split(tmp_path, "train")
    assert [source.relative_path(sample) for sample in range(4)] == [line.rsplit(maxsplit=1)[0] for line in LINES]
    assert source.labels.tolist() == [0, 44, 0, 204]
    assert len(source.classes) == 205
    assert (source.classes[0], source.classes[44], source.classes[204]) == ("abbey", "church/outdoor", "yard")
    assert source.classes[7] == "(label 7)"
    done = write_beton(source, tmp_path / "out" / "train.beton", WritePlan("passthrough"), num_workers=0)
    assert (done.num_kept, done.rejected) == (4, [])
    beton = open_beton(tmp_path / "out" / "train.beton")
    for sample in range(4):
        assert beton.image_bytes(sample).tobytes() == encoded(picture(sample), quality=80)


def test_missing_photos_are_rejected_by_name(tmp_path: Path) -> None:
    write_list(tmp_path, (*LINES, "z/zoo/1.jpg 203"))
    write_photos(tmp_path)
    done = write_beton(open_split(tmp_path, "train"), tmp_path / "x.beton", WritePlan("raw"), num_workers=0)
    assert done.rejected == [("z/zoo/1.jpg", "listed, but there is no such file")]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as missing:
        open_split(tmp_path, "val")
    for expected in (
        f"looked for {tmp_path}/{LISTS}/val_places205.csv and {tmp_path}/val_places205.csv",
        "trainvalsplit_places205.tar.gz (http://data.csail.mit.edu/places/places205/trainvalsplit_places205.tar.gz)",
    ):
        assert expected in str(missing.value)
    write_list(tmp_path, split="val")
    with pytest.raises(SourceError) as missing:
        open_split(tmp_path, "val")
    for expected in (
        "none of the 3 listed class folders, the first a/abbey, is in ",
        f"{tmp_path}/{IMAGES}, {tmp_path}/images256, {tmp_path}, {tmp_path}/imagesPlaces205_resize/{IMAGES}",
        "unpack imagesPlaces205_resize.tar.gz (http://data.csail.mit.edu/places/places205/",
    ):
        assert expected in str(missing.value)
    with pytest.raises(SourceError, match="'test', allowed: train, val"):
        open_split(tmp_path, "test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a/abbey/x.jpg,0", "line 2 is 'a/abbey/x.jpg,0', expected 'path.jpg label', a space between, label 0 to 204"),
        ("a/abbey/x.jpg 205", "line 2 is 'a/abbey/x.jpg 205'"),
        ("a/abbey/x.jpg -1", "line 2 is"),
        ("a/abbey/x.jpg one", "line 2 is"),
        ("7", "line 2 is '7'"),
        ("../secret.jpg 3", r"'\.\./secret\.jpg' is no path below"),
        ("//etc/x.jpg 3", "'/etc/x.jpg' is no path below"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    write_photos(tmp_path)
    write_list(tmp_path, (LINES[0], line))
    with pytest.raises(SourceError, match=message):
        open_split(tmp_path, "train")


def test_an_empty_list_and_one_that_contradicts_its_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_photos(tmp_path)
    write_list(tmp_path, ("", "  "))
    with pytest.raises(SourceError, match="lists no images"):
        open_split(tmp_path, "train")
    write_list(tmp_path, (*LINES, "y/yard/b.jpg 9", "b/abbey/c.jpg 3"))
    with caplog.at_level(logging.WARNING):
        source = open_split(tmp_path, "train")
    assert "1 photos have another label than the first photo of their folder" in caplog.text
    assert source.labels.tolist() == [0, 44, 0, 204, 9, 3]  # the list decides
    assert source.classes[0] == "a/abbey"  # two classes of one name keep the letter
    assert source.classes[3] == "b/abbey"
    assert len(np.unique(source.classes)) == 205
