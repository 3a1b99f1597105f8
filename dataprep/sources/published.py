"""What is published of the data sets: archives with their checksums, and how many images and classes there are.

Archives and counts are those of the data sets' own pages and readmes (ImageNet: ILSVRC2012; CIFAR-10; Places205:
places.csail.mit.edu; VOC2007 and 2012; COCO 2017; iNaturalist 2018: github.com/visipedia/inat_comp), checksums those
that they or torchvision's data sets state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataprep.writing.raw_source import Source


@dataclass(frozen=True)
class Archive:
    """A file to download."""

    name: str
    place: str
    md5: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.place}{f', md5 {self.md5}' if self.md5 else ''})"


_IMAGENET = "image-net.org/download-images"
_PLACES205 = "http://data.csail.mit.edu/places/places205"
_VOC07 = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007"
_INAT18 = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"

IMAGENET = {
    "train": Archive("ILSVRC2012_img_train.tar", _IMAGENET, "1d675b47d978889d74fa0da5fadfb00e"),
    "val": Archive("ILSVRC2012_img_val.tar", _IMAGENET, "29b22e2961454d5413ddabcf34fc5622"),
}
IMAGENET_DEVKIT = Archive("ILSVRC2012_devkit_t12.tar.gz", _IMAGENET, "fa75699e90414af021442c21a62c3abf")
CIFAR10 = Archive(
    "cifar-10-python.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar.html", "c58f30108f718f92721af3b95e74349a"
)
PLACES205_IMAGES = Archive("imagesPlaces205_resize.tar.gz", f"{_PLACES205}/imagesPlaces205_resize.tar.gz")
PLACES205_LISTS = Archive("trainvalsplit_places205.tar.gz", f"{_PLACES205}/trainvalsplit_places205.tar.gz")
VOC07 = {
    "trainval": Archive(
        "VOCtrainval_06-Nov-2007.tar", f"{_VOC07}/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"
    ),
    "test": Archive("VOCtest_06-Nov-2007.tar", f"{_VOC07}/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
}
VOC12 = {
    "trainval": Archive(
        "VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "6cd6e144f989b92b3379bac3b3de84fd",
    )
}
COCO_IMAGES = {
    split: Archive(f"{split}2017.zip", f"http://images.cocodataset.org/zips/{split}2017.zip")
    for split in ("train", "val")
}
COCO_LISTS = Archive(
    "annotations_trainval2017.zip", "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
)
ADE20K = Archive("ADEChallengeData2016.zip", "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip")
INAT18_IMAGES = Archive("train_val2018.tar.gz", f"{_INAT18}/train_val2018.tar.gz", "b1c6952ce38f31868cc50ea72d066cc3")
INAT18_LISTS = {
    "train": Archive("train2018.json.tar.gz", f"{_INAT18}/train2018.json.tar.gz", "bfa29d89d629cbf04d826a720c0a68b0"),
    "val": Archive("val2018.json.tar.gz", f"{_INAT18}/val2018.json.tar.gz", "f2ed8bfe3e9901cdefceb4e53cd3775d"),
}

_COUNTS = {  # data set: classes, images of each split
    "imagenet": (1000, {"train": 1_281_167, "val": 50_000}),
    "cifar10": (10, {"train": 50_000, "val": 10_000, "test": 10_000}),
    "places205": (205, {"train": 2_448_873, "val": 20_500}),
    "voc07": (20, {"train": 5_011, "trainval": 5_011, "val": 4_952, "test": 4_952}),
    "voc07+12-detection": (20, {"train": 16_551, "trainval": 16_551, "val": 4_952, "test": 4_952}),
    "voc07-detection": (20, {"train": 5_011, "trainval": 5_011, "val": 4_952, "test": 4_952}),
    "coco-detection": (80, {"train": 118_287, "val": 5_000}),
    "voc12-segmentation": (21, {"train": 1_464, "val": 1_449}),
    "esc50": (50, {"train": 1_600, "val": 400}),
    "ade20k": (150, {"train": 20_210, "val": 2_000}),
    "inat18": (8_142, {"train": 437_513, "val": 24_426}),
}


def differences(source: Source) -> list[str]:
    """Where a source has other numbers of images or classes than are published of it, one sentence each."""
    if source.name not in _COUNTS:
        return []
    num_classes, splits = _COUNTS[source.name]
    present = (source.labels == 1).any(axis=0).sum() if source.label_length else len(np.unique(source.labels))
    counted = {"images": (len(source), splits[source.split]), "classes with images": (int(present), num_classes)}
    if source.segments is not None:  # of which nobody knows before they are read
        del counted["classes with images"]
    return [
        f"{source.name} {source.split}: {found:,} {what} in {source.root}, published are {expected:,}"
        for what, (found, expected) in counted.items()
        if found != expected
    ]
