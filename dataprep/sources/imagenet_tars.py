"""The official ImageNet tars, read in place: where each photo lies in them, and the labels of val from the devkit.

Layout (torchvision's imagenet.py reads the same): `ILSVRC2012_img_train.tar` holds one `<wnid>.tar` per class;
`ILSVRC2012_img_val.tar` holds 50,000 photos; line k of the devkit's `ILSVRC2012_validation_ground_truth.txt` is the
ILSVRC id of the k-th of them by name, and its `meta.mat` gives the wnid of an id (leaves have no children). The index
of a class is its place among the sorted wnids, as in every tool, not its ILSVRC id.
"""

from __future__ import annotations

import io
import tarfile
from array import array
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dataprep.sources import published
from dataprep.sources.tar_members import list_tar
from dataprep.writing.raw_source import Source, SourceError
from dataprep.writing.sample_encoding import FilePart

TAR_NAMES = {split: archive.name for split, archive in published.IMAGENET.items()}
DEVKIT = "ILSVRC2012_devkit_t12"
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


class _Members:
    """Names, offsets and sizes of photos in one tar."""

    def __init__(self, tar: Path) -> None:
        self.tar = str(tar)
        self.names: list[str] = []
        self.offsets = array("Q")
        self.sizes = array("Q")

    def add(self, name: str, offset: int, size: int) -> None:
        self.names.append(name)
        self.offsets.append(offset)
        self.sizes.append(size)

    def source(self, root: Path, split: str, classes: tuple[str, ...], labels: NDArray[np.int64]) -> Source:
        return Source(
            name="imagenet",
            root=str(root),
            split=split,
            classes=classes,
            labels=labels,
            relative_path=self.names.__getitem__,
            content=lambda sample: FilePart(self.tar, self.offsets[sample], self.sizes[sample]),
        )


def open_split(root: Path, split: str) -> Source:
    """Index the official tar of `train` or `val` in `root`; SourceError says which file is missing or damaged."""
    tar = root / TAR_NAMES[split]
    if not tar.is_file():
        devkit = f" with {published.IMAGENET_DEVKIT}" if split == "val" else ""
        wanted = f"neither {split}/<wnid>/<photos> nor {published.IMAGENET[split]}{devkit}"
        raise SourceError(f"{root} holds {wanted}; expected one of them")
    try:
        return _open_train(root, tar) if split == "train" else _open_val(root, tar)
    except tarfile.TarError as error:
        raise SourceError(f"{tar} cannot be read as an uncompressed tar ({error}); download it again") from error


def _open_train(root: Path, tar: Path) -> Source:
    """One inner tar per class; the inner tars are sorted by wnid, their members by name."""
    members = _Members(tar)
    counts = []
    with tar.open("rb") as file:
        inner = {PurePosixPath(name).stem: (offset, size) for name, offset, size in list_tar(file)}
        if not inner:
            raise SourceError(f"{tar} holds no <wnid>.tar; download it again")
        for wnid in sorted(inner):
            offset, size = inner[wnid]
            photos = sorted(list_tar(file, offset, offset + size))
            if not photos:
                raise SourceError(f"{wnid}.tar in {tar} holds no photos; download {tar.name} again")
            for name, photo_offset, photo_size in photos:
                members.add(f"{wnid}/{name}", photo_offset, photo_size)
            counts.append(len(photos))
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return members.source(root, "train", tuple(sorted(inner)), labels)


def _open_val(root: Path, tar: Path) -> Source:
    """Photos sorted by name, labels from the devkit."""
    wnid_of_id, ids = _read_devkit(root)
    with tar.open("rb") as file:
        photos = sorted(list_tar(file))
    if len(photos) != len(ids):
        raise SourceError(f"{tar} holds {len(photos):,} photos, the devkit labels {len(ids):,}; download both again")
    unknown = sorted(set(ids) - wnid_of_id.keys())
    if unknown:
        raise SourceError(f"{root / DEVKIT}: {_META} does not know the ids {unknown[:5]} of {_GROUND_TRUTH}")
    members = _Members(tar)
    for photo in photos:
        members.add(*photo)
    classes = tuple(sorted(wnid_of_id.values()))
    index = {wnid: number for number, wnid in enumerate(classes)}
    labels = np.array([index[wnid_of_id[number]] for number in ids], dtype=np.int64)
    return members.source(root, "val", classes, labels)


def _read_devkit(root: Path) -> tuple[dict[int, str], list[int]]:
    """Wnid of each leaf's ILSVRC id, and the ids of the val photos in the order of their names."""
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(_devkit_file(root, _META)), squeeze_me=True)["synsets"]
    leaves = synsets[synsets["num_children"] == 0]
    wnid_of_id = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in np.atleast_1d(leaves)}
    ids = [int(line) for line in _devkit_file(root, _GROUND_TRUTH).split()]
    return wnid_of_id, ids


def _devkit_file(root: Path, name: str) -> bytes:
    """A file of the devkit, from its folder or from its archive."""
    unpacked, archive = root / DEVKIT / name, root / f"{DEVKIT}.tar.gz"
    if unpacked.is_file():
        return unpacked.read_bytes()
    if not archive.is_file():
        needed = f"expected {archive} or {unpacked}; download {published.IMAGENET_DEVKIT}"
        raise SourceError(f"{TAR_NAMES['val']} needs the devkit for its labels: {needed}")
    try:
        with tarfile.open(archive, "r:gz") as tar:
            file = tar.extractfile(f"{DEVKIT}/{name}")
            if file is None:
                raise KeyError(name)
            return file.read()
    except (KeyError, OSError, EOFError, tarfile.TarError) as error:
        raise SourceError(f"{archive} does not give {DEVKIT}/{name} ({error}); download it again") from error
