"""Another number of images or classes than published is said with both numbers."""

from __future__ import annotations

import numpy as np
import pytest

from dataprep.sources.published import VOC07, differences
from dataprep.writing.raw_source import Source


def source(name: str, split: str, labels: np.ndarray, num_classes: int) -> Source:
    return Source(
        name=name,
        root="/data",
        split=split,
        classes=tuple(map(str, range(num_classes))),
        labels=labels,
        relative_path=str,
        content=lambda sample: np.zeros((1, 1, 3), np.uint8),
    )


@pytest.mark.parametrize(
    ("name", "split", "num_images", "num_classes"),
    [
        ("imagenet", "train", 1_281_167, 1000),
        ("imagenet", "val", 50_000, 1000),
        ("cifar10", "train", 50_000, 10),
        ("cifar10", "val", 10_000, 10),
        ("places205", "train", 2_448_873, 205),
        ("places205", "val", 20_500, 205),
        ("inat18", "train", 437_513, 8_142),
        ("inat18", "val", 24_426, 8_142),
    ],
)
def test_classes_and_images_are_counted(name: str, split: str, num_images: int, num_classes: int) -> None:
    whole = source(name, split, np.arange(num_images) % num_classes, num_classes)
    assert differences(whole) == []
    part = source(name, split, np.arange(num_images - 1) % (num_classes - 1), num_classes)
    assert differences(part) == [
        f"{name} {split}: {num_images - 1:,} images in /data, published are {num_images:,}",
        f"{name} {split}: {num_classes - 1:,} classes with images in /data, published are {num_classes:,}",
    ]


@pytest.mark.parametrize(("split", "num_images"), [("train", 5011), ("trainval", 5011), ("val", 4952), ("test", 4952)])
def test_classes_of_label_vectors_are_those_that_are_present(split: str, num_images: int) -> None:
    labels = np.full((num_images, 20), -1, np.int8)
    labels[3, :19] = 1
    labels[4, 19] = 0
    [difference] = differences(source("voc07", split, labels, 20))
    assert difference == f"voc07 {split}: 19 classes with images in /data, published are 20"
    labels[5, 19] = 1
    assert differences(source("voc07", split, labels, 20)) == []


def test_nothing_is_published_of_a_folder() -> None:
    assert differences(source("folder", "train", np.zeros(3, np.int64), 1)) == []


def test_an_archive_says_where_it_is() -> None:
    assert str(VOC07["test"]) == (
        "VOCtest_06-Nov-2007.tar (http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar, "
        "md5 b6e924de25625d8de591ea690078ad9f)"
    )
