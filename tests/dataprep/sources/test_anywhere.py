"""Own images wherever they lie: the same pictures as a tree, a list, shards and a table make the same betons."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.beton.contract import open_beton, read_manifest
from dataprep.beton.manifest import class_names, has_labels
from dataprep.sources.anywhere import open_splits
from dataprep.sources.own_images import Listing, as_source, hold_out
from dataprep.write_ffcv import main
from dataprep.writing.raw_source import Source, SourceError
from dataprep.writing.sample_encoding import FilePart
from tests.dataprep.raw_images import encoded, make_tree, picture

CLASSES = ("ant", "bee", "cow")


def content(source: Source, sample: int) -> bytes:
    """A sample's bytes, read as a worker reads them."""
    part = source.content(sample)
    if isinstance(part, bytes):
        return part
    assert isinstance(part, FilePart)
    whole = Path(part.path).read_bytes()
    return whole if part.size < 0 else whole[part.offset : part.offset + part.size]


def in_tree(tree: Path) -> list[tuple[str, str, bytes]]:
    """Path, class and content of the photos of a tree, in its order."""
    files = sorted(tree.rglob("*.jpg"))
    return [(str(file.relative_to(tree)), file.parent.name, file.read_bytes()) for file in files]


def as_list(tree: Path) -> Path:
    path = tree / "photos.csv"
    path.write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label, _ in in_tree(tree)))
    return path


def as_shards(tree: Path) -> Path:
    folder = tree.parent / "shards"
    folder.mkdir()
    photos = in_tree(tree)
    for shard in range(2):
        with tarfile.open(folder / f"photos-{shard:03d}.tar", "w") as tar:
            for number, (_, label, jpeg) in list(enumerate(photos))[shard::2]:
                for extension, data in (("jpg", jpeg), ("cls", label.encode()), ("json", b"{}")):
                    member = tarfile.TarInfo(f"./{number:05d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


def as_table(tree: Path) -> Path:
    """As Hugging Face writes its data sets: records of bytes and path, and names of classes in the metadata."""
    photos = in_tree(tree)
    images = pa.array(
        [{"bytes": jpeg, "path": name} for name, _, jpeg in photos],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    labels = pa.array([CLASSES.index(label) for _, label, _ in photos], pa.int64())
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    table = pa.table({"image": images, "label": labels})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tree.parent / "photos.parquet", row_group_size=5)
    return tree.parent / "photos.parquet"


@pytest.mark.parametrize("form", [lambda tree: tree, as_list, as_shards, as_table])
def test_the_same_images_in_any_form(tree: Path, form: object) -> None:
    assert callable(form)
    (source,) = open_splits(form(tree), None)
    assert source.classes == CLASSES
    found = sorted((content(source, i), source.classes[source.labels[i]]) for i in range(len(source)))
    assert found == sorted((jpeg, label) for _, label, jpeg in in_tree(tree))
    assert len({source.relative_path(i) for i in range(len(source))}) == len(source) == 18


@pytest.mark.parametrize("form", [lambda tree: tree, as_list, as_shards, as_table])
def test_written_with_a_part_held_out(tree: Path, tmp_path: Path, form: object) -> None:
    assert callable(form)
    out = tmp_path / "out"
    command = ["folder", "--root", str(form(tree)), "--out", str(out), "--val-fraction", "0.3", "--num-workers", "0"]
    assert main(command) == 0
    train, val = open_beton(out / "train.beton"), open_beton(out / "val.beton")
    assert np.bincount(train.labels).tolist() == [4, 4, 4]
    assert np.bincount(val.labels).tolist() == [2, 2, 2]
    assert class_names(out / "train.beton") == class_names(out / "val.beton") == CLASSES
    images = [opened.image_bytes(i).tobytes() for opened in (train, val) for i in range(opened.num_samples)]
    assert sorted(images) == sorted(jpeg for _, _, jpeg in in_tree(tree))
    assert main(command) == 0  # there already


def test_without_labels(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flat folder is seen to have none; nested ones, lists and shards are told."""
    flat = tree / "ant"
    for root, options in ((flat, []), (tree, ["--unlabelled"]), (as_list(tree), ["--unlabelled"])):
        out = tmp_path / f"of {root.name}"
        assert main(["folder", "--root", str(root), "--out", str(out), "--num-workers", "0", *options]) == 0
        beton = open_beton(out / "train.beton")
        assert beton.labels.tolist() == [0] * beton.num_samples
        assert beton.num_samples == (6 if root is flat else 18)
        assert class_names(out / "train.beton") == ()
        assert not has_labels(out / "train.beton")
        assert "samples without labels" in capsys.readouterr().out
        assert main(["info", str(out / "train.beton")]) == 0
        assert "the images have no labels" in " ".join(capsys.readouterr().out.split())


def test_folders_that_are_splits_are_all_written(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        make_tree(tmp_path / "photos" / split, 2)
    out = tmp_path / "out"
    assert main(["folder", "--root", str(tmp_path / "photos"), "--out", str(out), "--num-workers", "0"]) == 0
    assert sorted(path.name for path in out.glob("*.beton")) == ["train.beton", "val.beton"]


def test_a_list_with_splits(tree: Path, tmp_path: Path) -> None:
    """Classes have one number in all splits, also where a split lacks some; no column needs a name."""
    lines = [
        (name, label, "val" if number % 6 == 0 and label != "ant" else "train")
        for number, (name, label, _) in enumerate(in_tree(tree))
    ]
    for name, text in {
        "semicolons.csv": "file;split;class\n" + "".join(f"{a};{c};{b}\n" for a, b, c in lines),
        "names.tsv": "\ufeffpath\tlabel\tsplit\r\n" + "".join(f"{a}\t{b}\t{c}\r\n" for a, b, c in lines),
        "none.csv": "".join(f'"{a}",{b},{c}\n\n' for a, b, c in lines),
    }.items():
        (tree / name).write_text(text)
        train, val = open_splits(tree / name, None)
        assert (train.split, val.split, train.classes, val.classes) == ("train", "val", CLASSES, CLASSES)
        assert (len(train), len(val)) == (16, 2)
        assert [val.classes[label] for label in val.labels] == ["bee", "cow"]
        assert [content(val, i) for i in range(2)] == [(tree / a).read_bytes() for a, _, c in lines if c == "val"]
        assert [source.split for source in open_splits(tree / name, "val")] == ["val"]
        with pytest.raises(SourceError, match=r"'test', but .* has the splits train, val"):
            open_splits(tree / name, "test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no files"),
        ("path,label\n", "lists no files"),
        ("a/1.jpg,ant,train,x\n", "4 columns without names"),
        ("path,label\nant/000.jpg,ant\nant/001.jpg\n", "line 3 is 'ant/001.jpg', expected 2 columns"),
        ("path,label\nant/000.jpg,\n", "line 2 has no label"),
        ("path\nelsewhere/000.jpg\n", "there is no .*/elsewhere/000.jpg; paths count from the list's folder"),
        ('"ant/000.jpg\n', "is no line of a table"),
    ],
)
def test_a_list_says_what_is_wrong(tree: Path, text: str, said: str) -> None:
    (tree / "photos.csv").write_text(text)
    with pytest.raises(SourceError, match=said):
        open_splits(tree / "photos.csv", None)
    (tree / "photos.csv").write_bytes(b"path\n\xff\xfe.jpg\n")
    with pytest.raises(SourceError, match="is not UTF-8"):
        open_splits(tree / "photos.csv", None)


def test_shards_say_what_is_wrong(tree: Path) -> None:
    shards = as_shards(tree)
    pattern = shards / "photos-{000..001}.tar"
    assert len(open_splits(pattern, None)[0]) == len(open_splits(shards, None)[0]) == 18
    assert len(open_splits(shards / "photos-001.tar", None)[0]) == 9
    with pytest.raises(SourceError, match=r"photos-002\.tar: no such file"):
        open_splits(shards / "photos-{000..002}.tar", None)
    first = shards / "photos-000.tar"
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"photos-000\.tar cannot be read as an uncompressed tar"):
        open_splits(shards, None)
    with tarfile.open(first, "w") as tar:
        member = tarfile.TarInfo("7.jpg")
        member.size = len(jpeg := encoded(picture(7)))
        tar.addfile(member, io.BytesIO(jpeg))
    with pytest.raises(SourceError, match=r"photos-000.tar/7.jpg and 0 more have no .cls beside them"):
        open_splits(shards, None)
    (source,) = open_splits(first, None)
    assert source.classes == ()


def test_tables_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "photos.parquet"
    path.write_bytes(b"no table")
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        open_splits(path, None)
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), path)
    with pytest.raises(SourceError, match=r"has no image column among text \(string\), label \(int64\)"):
        open_splits(path, None)
    pq.write_table(pa.table({"image": [b"x", b"y"], "label": [0, None]}), path)
    with pytest.raises(SourceError, match="row 1 has no label"):
        open_splits(path, None)
    pq.write_table(pa.table({"image": [encoded(picture(1)), None]}), path)
    (source,) = open_splits(path, None)
    assert (source.classes, content(source, 1)) == ((), b"")


def test_numbers_are_classes_in_the_order_of_their_value() -> None:
    source = as_source("list", Path(), "", Listing(["a", "b", "c"], ["10", "9", "10"]), lambda i: b"")
    assert source.classes == ("9", "10")
    assert source.labels.tolist() == [1, 0, 1]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0.01, 0.9), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_class_is_held_out_alike(counts: list[int], fraction: float, seed: int) -> None:
    labels = [str(label) for label, count in enumerate(counts) for _ in range(count)]
    source = as_source("list", Path(), "", Listing([str(i) for i in range(len(labels))], labels), lambda i: b"")
    if max(counts) == 1:
        with pytest.raises(SourceError, match="leaves none"):
            hold_out(source, fraction, seed)
        return
    train, val = hold_out(source, fraction, seed)
    names = [part.relative_path(i) for part in (train, val) for i in range(len(part))]
    assert sorted(names, key=int) == [str(i) for i in range(len(labels))]
    for label, count in enumerate(counts):
        held_out = int((val.labels == label).sum())
        assert held_out == min(max(int(count * fraction + 0.5), 1), count - 1)
    fewer = hold_out(source, fraction / 2, seed)[1]
    assert {fewer.relative_path(i) for i in range(len(fewer))} <= {val.relative_path(i) for i in range(len(val))}


def test_channel_statistics_are_in_the_manifest(tmp_path: Path) -> None:
    """Against all pixels of the digits; of JPEGs at reduced size within what a reduction changes."""
    assert main(["digits", "--out", str(tmp_path), "--split", "val", "--num-workers", "0"]) == 0
    beton, manifest = open_beton(tmp_path / "val.beton"), read_manifest(tmp_path / "val.beton")
    pixels = np.stack([beton.decode(i) for i in range(beton.num_samples)]).reshape(-1, 3) / 255
    np.testing.assert_allclose(manifest["channel_mean"], pixels.mean(0), atol=1e-4)
    np.testing.assert_allclose(manifest["channel_std"], pixels.std(0), atol=1e-4)
    photos = tmp_path / "photos"
    photos.mkdir()
    pictures = [picture(seed, 500, 300 + 50 * seed) for seed in range(4)]
    for number, pixels in enumerate(pictures):
        (photos / f"{number}.jpg").write_bytes(encoded(pixels, quality=95))
    assert main(["folder", "--root", str(photos), "--out", str(tmp_path), "--num-workers", "0"]) == 0
    manifest = read_manifest(tmp_path / "train.beton")
    means = np.mean([(p / 255).reshape(-1, 3).mean(0) for p in pictures], axis=0)
    squares = np.mean([((p / 255) ** 2).reshape(-1, 3).mean(0) for p in pictures], axis=0)
    np.testing.assert_allclose(manifest["channel_mean"], means, atol=0.005)
    np.testing.assert_allclose(manifest["channel_std"], np.sqrt(squares - means**2), atol=0.01)


def test_numbers_in_shards_are_images_where_there_is_no_other(tmp_path: Path) -> None:
    """Beside a photo they are its features or the like, as many shards have them."""
    numbers, jpeg = io.BytesIO(), encoded(picture(0))
    np.save(numbers, np.zeros((9, 17, 5), np.uint8))
    for shard, members in {
        "bands": ("0.npy", "1.npy"),
        "photos": ("0.npy", "0.jpg", "1.jpg", "1.npy"),
        "both": ("0.png", "0.jpg"),
    }.items():
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for name in members:
                data = numbers.getvalue() if name.endswith("npy") else jpeg
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (bands,), (photos,) = (open_splits(tmp_path / f"{shard}.tar", None) for shard in ("bands", "photos"))
    assert [content(bands, sample) for sample in range(len(bands))] == 2 * [numbers.getvalue()]
    assert [content(photos, sample) for sample in range(len(photos))] == 2 * [jpeg]
    with pytest.raises(SourceError, match=r"0 has two images, .png and .jpg"):
        open_splits(tmp_path / "both.tar", None)
