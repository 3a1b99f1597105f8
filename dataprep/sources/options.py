"""What a user can say of a write: the options of every source, and those of each one. Their texts are the help."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dataprep.sources import (
    anywhere,
    captions,
    coco_detection,
    digit_captions,
    digits,
    inat18,
    places205,
    segmentation,
    voc07,
    voc_detection,
)
from dataprep.sources import class_folders as sources
from dataprep.sources.own_images import hold_out
from dataprep.writing.images import WriteMode
from dataprep.writing.raw_source import Source, SourceError

# The lines of these texts end where a sentence ends, because the help keeps the line breaks.


@dataclass(frozen=True, kw_only=True)
class Output(ABC):
    """Where a beton goes and how it is made."""

    out: Path
    """Folder for the beton and its manifest (<split>.beton, <split>.beton.json)."""
    write_mode: WriteMode | None = None
    """passthrough: a JPEG's own bytes where it needs no resize, rotation or conversion, else encoded.
    jpg: every image encoded.
    raw: pixels.
    proportion: JPEG for a share of the images, raw for the rest.
    Default: passthrough for files, raw for arrays (digits, CIFAR-10's python batches) and for channels."""
    max_resolution: int | None = None
    """Longest side in pixels; larger images are shrunk. Default: as they are."""
    quality: int = 90
    """JPEG quality of what is encoded, 1 to 100."""
    jpg_proportion: float = 0.5
    """Share of the images that write mode proportion stores as JPEG, 0 to 1."""
    max_pixels: int = 1 << 26
    """Images of more pixels are rejected unread (decompression bombs)."""
    num_workers: int | None = None
    """Encoder processes; 0 encodes in the command's own process. Default: one per usable CPU core."""
    channels: int | None = None
    """Keep images as so many channels that are no colours, 1 to 16, without loss: 1 for grey, or a band each.
    Default: RGB, unless the first image is a .npy or TIFF of other channels."""
    limit: int | None = None
    """Read this many images at most: the first ones, or with --shuffle-seed a random part."""
    shuffle_seed: int | None = None
    """Shuffle the samples with this seed. Default: the source's order."""
    on_bad: Literal["skip", "fail"] = "skip"
    """An image that cannot be used: skip leaves it out and names it in the manifest, fail stops the write."""
    allow_partial: bool = False
    """Write a data set that has other numbers of images or classes than are published of it, too."""
    overwrite: bool = False
    """Replace a beton that is already there."""

    def open_sources(self) -> list[Source]:
        """The raw data, indexed: one source for each beton."""
        return [self.open_source()]

    @abstractmethod
    def open_source(self) -> Source:
        """The raw data, indexed."""


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """Where raw data lie; before the options of the output, because the help keeps the order."""

    root: Path
    """Folder with the raw data."""
    split: str | None = None
    """Part of the data set; names the beton."""


@dataclass(frozen=True, kw_only=True)
class Imagenet(Output, OnDisk):
    """ImageNet-1k: extracted class folders, or the official tars read in place."""

    root: Path
    """Folder with train/<wnid>/*.JPEG and val/<wnid>/*.JPEG,
    or with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz."""
    split: str = "train"
    """train or val."""

    def open_source(self) -> Source:
        return sources.imagenet(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Places205(Output, OnDisk):
    """Places205: the photos at 256 x 256 and their lists, as the two archives unpack."""

    root: Path
    """Folder where imagesPlaces205_resize.tar.gz and trainvalsplit_places205.tar.gz were unpacked:
    data/vision/torralba/deeplearning/images256/ (or images256/, or what is in it)
    and trainvalsplit_places205/ (or what is in it)."""
    split: str = "train"
    """train or val."""

    def open_source(self) -> Source:
        return places205.open_split(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Voc07(Output, OnDisk):
    """PASCAL VOC2007: label vectors of 20 classes (1 present, -1 absent, 0 only difficult objects)."""

    root: Path
    """Folder where VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar were unpacked
    (it holds VOCdevkit/, or is VOCdevkit, or is VOC2007)."""
    split: str = "train"
    """trainval or test; train is trainval and val is test, under the names that evaluations expect."""

    def open_source(self) -> Source:
        return voc07.open_split(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class VocDetection(Output, OnDisk):
    """PASCAL VOC for detection: boxes of 20 classes, difficult ones marked."""

    root: Path
    """Folder where VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar and VOCtrainval_11-May-2012.tar were unpacked
    (it holds VOCdevkit/, or is VOCdevkit)."""
    split: str = "train"
    """trainval (of 2007 and 2012 together) or test (of 2007); train is trainval and val is test."""
    years: voc_detection.Years = "07+12"
    """Whose trainval is the training set; 07: that of 2007 alone."""

    def open_source(self) -> Source:
        return voc_detection.open_split(self.root, self.split, self.years)


@dataclass(frozen=True, kw_only=True)
class CocoDetection(Output, OnDisk):
    """COCO 2017: boxes and masks of 80 classes, crowds marked."""

    root: Path
    """Folder where train2017.zip, val2017.zip and annotations_trainval2017.zip were unpacked:
    train2017/, val2017/ and annotations/instances_{train,val}2017.json."""
    split: str = "train"
    """train or val."""

    def open_source(self) -> Source:
        return coco_detection.open_split(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class VocSegmentation(Output, OnDisk):
    """PASCAL VOC2012 for segmentation: the class of every pixel, 20 classes and the background."""

    root: Path
    """Folder where VOCtrainval_11-May-2012.tar was unpacked (it holds VOCdevkit/, or is VOCdevkit)."""
    split: str = "train"
    """train or val."""

    def open_source(self) -> Source:
        return segmentation.open_voc12(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Ade20k(Output, OnDisk):
    """ADE20k for segmentation: the class of every pixel, 150 classes."""

    root: Path
    """Folder where ADEChallengeData2016.zip was unpacked."""
    split: str = "train"
    """train or val."""

    def open_source(self) -> Source:
        return segmentation.open_ade20k(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Captions(Output, OnDisk):
    """Images with what is said of them: COCO captions by Karpathy's splits, or a table of images and captions."""

    root: Path
    """For COCO the folder with train2014/, val2014/, annotations/captions_{train,val}2014.json and dataset_coco.json;
    else one with captions.txt (or .csv; below a line image,caption a line for each caption, as Flickr8k has it)
    and the folder images/ or Images/."""
    split: str | None = None
    """COCO: train, val or test. A table: train, or val with --num-val. Default: all."""
    restval: bool = True
    """COCO's train has Karpathy's restval too (113,287 images), as VSE++ is trained; else 82,783."""
    num_val: int = 0
    """Of a table: hold out so many images, drawn by --seed, as val.beton."""
    seed: int = 0
    """Seed of that draw."""

    def open_source(self) -> Source:
        (source,) = self.open_sources()
        return source

    def open_sources(self) -> list[Source]:
        return captions.open_splits(self.root, self.split, self.restval, self.num_val, self.seed)


@dataclass(frozen=True, kw_only=True)
class Inat18(Output, OnDisk):
    """iNaturalist 2018: 8,142 species, labelled by category id."""

    root: Path
    """Folder where train_val2018.tar.gz, train2018.json.tar.gz and val2018.json.tar.gz were unpacked:
    train_val2018/<group>/<category id>/*.jpg, train2018.json, val2018.json."""
    split: str = "train"
    """train or val."""

    def open_source(self) -> Source:
        return inat18.open_split(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Cifar10(Output, OnDisk):
    """CIFAR-10: the published python batches, or class folders."""

    root: Path
    """Folder with cifar-10-batches-py/ (or the batches themselves), or with train/<class>/<files> and test/..."""
    split: str = "train"
    """train, test, or val (the test set under the name that the recipes expect)."""

    def open_source(self) -> Source:
        return sources.cifar10(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Digits(Output):
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; nothing to download."""

    split: str = "train"
    """train (1,437 images) or val (360)."""
    multi_label: bool = False
    """Label vectors of five attributes of the digits (even, prime, ...), for trying the path that VOC2007 takes."""
    captions: bool = False
    """Numbers of three digits with their spelled-out names as captions: train (800 images) or val (200)."""

    def open_source(self) -> Source:
        if self.captions:
            return digit_captions.open_split(self.split)
        return digits.open_split(self.split, self.multi_label)


@dataclass(frozen=True, kw_only=True)
class Folder(Output, OnDisk):
    """Own images, with labels or without."""

    root: Path
    """A folder with one folder per class, or with images alone;
    a list of files (.csv, .tsv: path and, if there are any, label and split);
    tar shards with webdataset's names (a .tar, a folder of them, or 'shard-{000..011}.tar');
    a .parquet file with an image column, or a folder of them."""
    split: str | None = None
    """Subfolder of the root, or split of a list; names the beton.
    Default: every split that a list names or that has a folder (train, val, ...), else train."""
    unlabelled: bool = False
    """Take the images without labels: of a folder all, in whatever folders they lie."""
    val_fraction: float = 0.0
    """Hold out this share of the images, of every class alike, as val.beton."""
    seed: int = 0
    """Seed of the draw of what is held out."""

    def open_source(self) -> Source:
        (source,) = self.open_sources()
        return source

    def open_sources(self) -> list[Source]:
        sources = anywhere.open_splits(self.root, self.split, self.unlabelled)
        sources = [replace(source, split=source.split or "train") for source in sources]
        if not self.val_fraction:
            return sources
        if len(sources) > 1:
            names = ", ".join(source.split for source in sources)
            raise SourceError(f"--val-fraction divides one set, and {self.root} has {names}; choose with --split")
        return list(hold_out(sources[0], self.val_fraction, self.seed))
