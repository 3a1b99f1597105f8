"""Raw data sets in their published layouts, and what is said when something is missing."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from dataprep.sources import class_folders as sources
from dataprep.writing.raw_source import Source, SourceError
from dataprep.writing.sample_encoding import FilePart
from tests.dataprep.raw_images import encoded, make_tree, picture

WNIDS = ("n01440764", "n01443537", "n02102040")


def content(source: Source, sample: int) -> bytes:
    """A sample's bytes, read as a worker reads them."""
    part = source.content(sample)
    assert isinstance(part, FilePart)
    whole = Path(part.path).read_bytes()
    return whole if part.size < 0 else whole[part.offset : part.offset + part.size]


def names(source: Source) -> list[str]:
    return [source.relative_path(sample) for sample in range(len(source))]


def test_folder_lists_sorted_by_class_and_path(tree: Path) -> None:
    (tree / "bee" / "deeper").mkdir()
    (tree / "bee" / "deeper" / "x.JPG").write_bytes(b"x")
    (tree / "bee" / ".hidden").write_bytes(b"x")
    (tree / ".cache").mkdir()
    (tree / "README.txt").write_text("stray")
    os.mkfifo(tree / "bee" / "pipe")
    (tree / "bee" / "dangling.jpg").symlink_to("nowhere")
    (tree / "bee" / "circle").symlink_to(tree)
    source = sources.folder(tree)
    assert source.classes == ("ant", "bee", "cow")
    assert names(source)[6:14] == [f"bee/{n}.jpg" for n in ("000", "001", "002", "003", "004", "005", "dangling")] + [
        "bee/deeper/x.JPG"
    ]
    assert np.bincount(source.labels).tolist() == [6, 8, 6]
    assert content(source, 2) == (tree / "ant" / "002.jpg").read_bytes()


def test_folder_says_what_is_wrong(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no folder"):
        sources.folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no images"):
        sources.folder(tmp_path / "empty")
    with pytest.raises(SourceError, match=r"'train', but .* holds: ant, bee, cow"):
        sources.folder(tree, "train")
    (tree / "dodo").mkdir()
    with pytest.raises(SourceError, match=r"1 class folders .* hold no files: dodo"):
        sources.folder(tree)
    splits = make_tree(tmp_path / "splits", classes=("train", "val"))
    with pytest.raises(SourceError, match="add --split train"):
        sources.folder(splits)
    splits = make_tree(tmp_path / "more splits", classes=("Testing", "Training"))
    with pytest.raises(SourceError, match="add --split Testing"):
        sources.folder(splits)


def test_links_that_lead_in_circles_are_named_and_left_out(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = names(sources.folder(tree))
    circles = {"self": "self", "here": ".", "up": "..", "a": "b", "b": "a", "nowhere": "absent"}
    for name, target in circles.items():
        (tree / name).symlink_to(target)
    (tree / "bee" / "back").symlink_to("..")
    (make_tree(tmp_path / "elsewhere", classes=("dodo",)) / "dodo").rename(tmp_path / "dodo")
    (tree / "dodo").symlink_to(tmp_path / "dodo")
    source = sources.folder(tree)
    assert source.classes == ("ant", "bee", "cow", "dodo")
    assert names(source)[: len(expected)] == expected
    said = [message.split(":")[0] for message in caplog.messages if ": link to" in message]
    assert sorted(said) == sorted(str(tree / name) for name in (*circles, "bee/back"))


def test_a_folder_that_cannot_be_listed_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def denied(folder: Path) -> object:
        if Path(folder).name == "bee":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(SourceError, match=r"/bee cannot be listed \(Permission denied\)"):
        sources.folder(tree)


def test_imagenet_folders(tmp_path: Path) -> None:
    make_tree(tmp_path / "val", 2, WNIDS)
    source = sources.imagenet(tmp_path, "val")
    assert source.name == "imagenet"
    assert source.classes == WNIDS
    with pytest.raises(SourceError, match=r"neither train/<wnid>/<photos> nor ILSVRC2012_img_train\.tar"):
        sources.imagenet(tmp_path, "train")
    with pytest.raises(SourceError, match="'test', allowed: train, val"):
        sources.imagenet(tmp_path, "test")
    make_tree(tmp_path / "train", 1, ("dogs", "cats"))
    with pytest.raises(SourceError, match="named like n01440764"):
        sources.imagenet(tmp_path, "train")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def photo(number: int) -> bytes:
    return encoded(picture(number), quality=80)


def write_train_tar(root: Path) -> None:
    """One tar per class inside a tar, classes and photos out of order as in no tar that can be relied on."""
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for number in (2, 0, 1):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for sample in (1, 0):
                    add(inner, f"{WNIDS[number]}_{sample}.JPEG", photo(10 * number + sample))
            add(outer, f"{WNIDS[number]}.tar", buffer.getvalue())


def write_val_tar(root: Path) -> None:
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in (3, 1, 2, 4):
            add(tar, f"ILSVRC2012_val_{number:08d}.JPEG", photo(number))


def write_devkit(root: Path) -> None:
    """meta.mat with the three classes out of order and one inner node; the true classes of the four photos."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.zeros((4, 1), dtype=kinds)
    rows = [
        (1, WNIDS[2], "dog", 0),
        (2, WNIDS[0], "tench", 0),
        (3, WNIDS[1], "goldfish", 0),
        (4, "n00001740", "thing", 3),
    ]
    for place, row in enumerate(rows):
        synsets[place, 0] = row
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        add(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", b"2\n1\n3\n2\n")


def test_imagenet_train_tar_is_read_in_place(tmp_path: Path) -> None:
    write_train_tar(tmp_path)
    source = sources.imagenet(tmp_path, "train")
    assert source.classes == WNIDS
    assert names(source) == [f"{wnid}/{wnid}_{sample}.JPEG" for wnid in WNIDS for sample in (0, 1)]
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [content(source, sample) for sample in range(6)] == [photo(n) for n in (0, 1, 10, 11, 20, 21)]


def test_imagenet_val_tar_takes_its_labels_from_the_devkit(tmp_path: Path) -> None:
    write_val_tar(tmp_path)
    with pytest.raises(SourceError, match=r"needs the devkit .* ILSVRC2012_devkit_t12\.tar\.gz|devkit"):
        sources.imagenet(tmp_path, "val")
    write_devkit(tmp_path)
    source = sources.imagenet(tmp_path, "val")
    assert source.classes == WNIDS
    assert source.labels.tolist() == [0, 2, 1, 0]
    assert [content(source, sample) for sample in range(4)] == [photo(n) for n in (1, 2, 3, 4)]
    shutil.unpack_archive(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert sources.imagenet(tmp_path, "val").labels.tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
def test_cut_tars_are_refused(tmp_path: Path, name: str) -> None:
    write_train_tar(tmp_path)
    write_val_tar(tmp_path)
    write_devkit(tmp_path)
    path = tmp_path / name
    split = "train" if "train" in name else "val"
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for cut in (end - 200, end // 2, 700):
        path.write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=r"download (it|both) again"):
            sources.imagenet(tmp_path, split)
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(SourceError, match="download it again"):
        sources.imagenet(tmp_path, split)


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tars")
    write_train_tar(root)
    write_val_tar(root)
    write_devkit(root)
    return root


@pytest.mark.parametrize("split", ["train", "val"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_of_a_header_never_drops_photos(tars: Path, split: str, data: st.DataObject) -> None:
    """tarfile takes a header that is damaged, unless it is the first, for the end of the archive."""
    path = tars / f"ILSVRC2012_img_{split}.tar"
    whole, found = path.read_bytes(), names(sources.imagenet(tars, split))
    headers = [place - 257 for place in range(len(whole)) if whole[place : place + 5] == b"ustar"]
    damaged = bytearray(whole)
    damaged[data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 511))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        assert names(sources.imagenet(tars, split)) == found
    except SourceError as error:
        assert str(tars) in str(error)  # noqa: PT017
    finally:
        path.write_bytes(whole)


def write_cifar(base: Path) -> None:
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        batch = {
            b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8),
            b"labels": [int(label) for label in rng.integers(0, 10, 4)],
            b"filenames": [f"{name}_{n}.png".encode() for n in range(4)],
        }
        (base / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("inside", [True, False])
def test_cifar10_batches(tmp_path: Path, inside: bool) -> None:
    base = tmp_path / "cifar-10-batches-py" if inside else tmp_path / "here"
    write_cifar(base)
    root = tmp_path if inside else base
    train, test = sources.cifar10(root, "train"), sources.cifar10(root, "test")
    assert (len(train), len(test)) == (20, 4)
    assert len(train.classes) == 10
    assert list(train.classes) == sorted(train.classes)
    assert train.default_write_mode == "raw"
    batch = pickle.loads((base / "data_batch_2").read_bytes(), encoding="bytes")  # noqa: S301
    image = train.content(5)
    assert isinstance(image, np.ndarray)
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image[..., 1].ravel(), batch[b"data"][1, 1024:2048])
    assert train.labels[5] == batch[b"labels"][1]
    assert train.relative_path(5).endswith("/data_batch_2_1.png")
    assert names(sources.cifar10(root, "val")) == names(test)
    (base / "data_batch_4").unlink()
    with pytest.raises(SourceError, match="cifar-10-batches-py/data_batch_4"):
        sources.cifar10(root, "train")


class Burglar:
    """What a pickle could do to whoever loads it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("broken-in",)


def test_cifar10_batches_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path / "cifar-10-batches-py")
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps({b"data": Burglar()}))
    with pytest.raises(SourceError, match=r"posix\.mkdir"):
        sources.cifar10(tmp_path, "test")
    assert not (tmp_path / "broken-in").exists()
    for damaged in (path.read_bytes()[:20], b"", pickle.dumps([1, 2]), pickle.dumps({b"data": 3})):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match="test_batch"):
            sources.cifar10(tmp_path, "test")


def test_cifar10_class_folders(tmp_path: Path) -> None:
    classes = tuple(f"class{n}" for n in range(10))
    make_tree(tmp_path / "test", 1, classes)
    source = sources.cifar10(tmp_path, "val")
    assert source.split == "val"  # names the file, which recipes expect under that name
    assert (source.name, source.default_write_mode, len(source)) == ("cifar10", "passthrough", 10)
    make_tree(tmp_path / "train", 1, classes[:9])
    with pytest.raises(SourceError, match="holds 9 class folders"):
        sources.cifar10(tmp_path, "train")
