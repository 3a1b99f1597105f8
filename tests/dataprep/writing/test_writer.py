"""What is written: read back by plain FFCV and by our reader, the same with any number of workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataprep.beton.contract import IMAGE_JPEG, BetonError, manifest_path, open_beton, read_manifest
from dataprep.beton.keyed_choice import permutation
from dataprep.beton.layout import ALLOCATION
from dataprep.beton.verification import problems
from dataprep.sources import class_folders as sources
from dataprep.sources import digits
from dataprep.writing.beton_file import BetonFile
from dataprep.writing.raw_source import Source, listed_files
from dataprep.writing.sample_encoding import Encoded
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import WriteError, already_written, write_beton
from tests.dataprep.raw_images import encoded, make_tree, picture

ROOT = Path(__file__).parents[3]
FFCV_LOADER = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
path, os_cache = sys.argv[1], sys.argv[2] == "True"
pipelines = {"image": [CenterCropRGBImageDecoder((16, 16), 1.0)], "label": [IntDecoder()], "index": [IntDecoder()]}
order = OrderOption.SEQUENTIAL
loader = Loader(path, 6, num_workers=1, order=order, os_cache=os_cache, drop_last=False, pipelines=pipelines)
for images, labels, indices in loader:
    for image, label, index in zip(images, labels, indices):
        print(label.item(), index.item(), *np.asarray(image).reshape(-1, 3).mean(0).round(1))
"""


def content(path: Path) -> tuple[bytes, bytes]:
    return path.read_bytes(), manifest_path(path).read_bytes()


@pytest.mark.ffcv
@pytest.mark.parametrize("write_mode", ["passthrough", "jpg", "raw", "proportion"])
def test_plain_ffcv_reader_reads_our_files(tree: Path, tmp_path: Path, write_mode: str) -> None:
    from ffcv.reader import Reader

    path = tmp_path / "out" / "all.beton"
    write_beton(sources.folder(tree), path, WritePlan(write_mode, shuffle_seed=5), num_workers=0)
    reader, beton = Reader(str(path)), open_beton(path)
    assert reader.num_samples == beton.num_samples == 18
    assert reader.field_names == list(beton.field_names) == ["image", "label", "index"]
    np.testing.assert_array_equal(reader.metadata["f1"], beton.labels)
    np.testing.assert_array_equal(reader.metadata["f2"], permutation(18, 5))
    for name, ours in {"mode": beton.modes, "width": beton.widths, "height": beton.heights}.items():
        np.testing.assert_array_equal(reader.metadata["f0"][name], ours)
    np.testing.assert_array_equal(reader.alloc_table["ptr"], beton.pointers)
    np.testing.assert_array_equal(reader.alloc_table["size"], beton.sizes)
    names = sorted(str(path) for path in tree.glob("*/*"))
    for sample, index in enumerate(permutation(18, 5)):
        expected = np.asarray(Image.open(names[index])).astype(int)
        error = np.abs(beton.decode(sample) - expected)
        assert error.max() == 0 if write_mode in ("passthrough", "raw") else error.mean() < 4
    modes = set(beton.modes.tolist())
    assert modes == {"passthrough": {0}, "jpg": {0}, "raw": {1}, "proportion": {0, 1}}[write_mode]


FFCV_VECTOR_LOADER = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.ndarray import NDArrayDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
path, os_cache = sys.argv[1], sys.argv[2] == "True"
pipelines = {"image": [CenterCropRGBImageDecoder((8, 8), 1.0)], "label": [NDArrayDecoder()], "index": [IntDecoder()]}
order = OrderOption.RANDOM
loader = Loader(path, 64, num_workers=1, order=order, seed=1, os_cache=os_cache, drop_last=False, pipelines=pipelines)
for images, labels, indices in loader:
    assert labels.dtype == np.int8
    for image, label, index in zip(images, labels, indices):
        print(index.item(), int(np.asarray(image, int).sum()), *label.tolist())
"""


@pytest.mark.ffcv
@pytest.mark.parametrize("write_mode", ["raw", "jpg"])
def test_plain_ffcv_reader_reads_our_label_vectors(tmp_path: Path, write_mode: str) -> None:
    from ffcv.reader import Reader

    source = digits.open_split("val", multi_label=True)
    path = tmp_path / "val.beton"
    write_beton(source, path, WritePlan(write_mode, limit=300, shuffle_seed=2), num_workers=0)
    reader, beton = Reader(str(path)), open_beton(path)
    order = permutation(360, 2)[:300]
    np.testing.assert_array_equal(beton.labels, source.labels[order])
    assert (reader.handlers["label"].dtype, reader.handlers["label"].shape) == (np.dtype("int8"), (5,))
    np.testing.assert_array_equal(reader.metadata["f2"], order)
    rows = {int(row["ptr"]): row for row in reader.alloc_table}
    assert len(rows) == len(reader.alloc_table) == 600
    memory = path.read_bytes()
    for sample, pointer in enumerate(reader.metadata["f1"].tolist()):
        row = rows[pointer]
        assert (row["sample_id"], row["size"]) == (sample, 5)
        assert pointer // beton.page_size == (pointer + 4) // beton.page_size
        assert np.frombuffer(memory[pointer : pointer + 5], np.int8).tolist() == beton.labels[sample].tolist()


@pytest.mark.ffcv
@pytest.mark.slow
@pytest.mark.parametrize("os_cache", [True, False])
def test_plain_ffcv_loader_reads_our_label_vectors(tmp_path: Path, os_cache: bool) -> None:
    path = tmp_path / "val.beton"
    source = digits.open_split("val", multi_label=True)
    write_beton(source, path, WritePlan("raw"), num_workers=0)
    command = [sys.executable, "-c", FFCV_VECTOR_LOADER, str(path), str(os_cache)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True).stdout
    rows = {int(index): rest for index, *rest in map(str.split, output.splitlines())}
    beton = open_beton(path)
    assert rows.keys() == set(range(360))
    for index, (pixels, *label) in rows.items():
        assert [int(value) for value in label] == source.labels[index].tolist()
        assert int(pixels) == beton.decode(index).astype(int).sum()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_manifest_of_label_vectors(tmp_path: Path, num_workers: int) -> None:
    source = digits.open_split("val", multi_label=True)
    path = tmp_path / "val.beton"
    write_beton(source, path, WritePlan("raw", limit=200), num_workers=num_workers)
    manifest = read_manifest(path)
    assert manifest["fields"] == {"image": "RGBImageField", "label": "NDArrayField", "index": "IntField"}
    for column, name in enumerate(source.classes):
        counted = {str(value): int((source.labels[:200, column] == value).sum()) for value in (-1, 0, 1)}
        assert manifest["samples_per_class"][name] == counted
    assert already_written(source, path, WritePlan("raw", limit=200))
    with pytest.raises(BetonError, match="is another"):
        already_written(digits.open_split("val"), path, WritePlan("raw", limit=200))


def test_listed_files_that_are_missing_are_rejected_by_name(tree: Path, tmp_path: Path) -> None:
    paths = ["ant/000.jpg", "ant/gone.jpg", "bee/001.jpg", "dodo/000.jpg"]
    source = Source(
        name="list",
        root=str(tree),
        split="train",
        classes=("a", "b"),
        labels=np.array([0, 0, 1, 1]),
        relative_path=paths.__getitem__,
        content=listed_files(tree, paths, tree / "list"),
    )
    path = tmp_path / "x.beton"
    done = write_beton(source, path, WritePlan("passthrough"), num_workers=1)
    assert done.rejected == [(name, "listed, but there is no such file") for name in (paths[1], paths[3])]
    assert open_beton(path).labels.tolist() == [0, 1]
    shutil.move(tree, tmp_path / "unmounted")
    with pytest.raises(WriteError, match=r"cannot read .*ant/000\.jpg"):
        write_beton(source, path, WritePlan("passthrough"), num_workers=1)


@pytest.mark.ffcv
@pytest.mark.slow
@pytest.mark.parametrize("os_cache", [True, False])
def test_plain_ffcv_loader_reads_our_files(tree: Path, tmp_path: Path, os_cache: bool) -> None:
    path = tmp_path / "all.beton"
    write_beton(sources.folder(tree), path, WritePlan("proportion"), num_workers=0)
    beton = open_beton(path)
    command = [sys.executable, "-c", FFCV_LOADER, str(path), str(os_cache)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True).stdout
    rows = [line.split() for line in output.splitlines()]
    assert [int(row[0]) for row in rows] == beton.labels.tolist()
    assert [int(row[1]) for row in rows] == list(range(18))
    for sample, row in enumerate(rows):
        image = beton.decode(sample)
        height, width, _ = image.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        mean = image[top : top + side, left : left + side].reshape(-1, 3).mean(0)
        assert np.abs(np.array(row[2:], float) - mean).max() < 2


@pytest.mark.parametrize("write_mode", ["passthrough", "proportion"])
def test_the_number_of_workers_changes_nothing(tmp_path: Path, write_mode: str) -> None:
    tree = make_tree(tmp_path / "raw", num_per_class=50)
    (tree / "ant" / "zzz.jpg").write_bytes(b"bad")
    plan = WritePlan(write_mode, max_resolution=60, shuffle_seed=3)
    written = []
    for number, num_workers in enumerate((0, 1, 3)):
        path = tmp_path / str(number) / "all.beton"
        done = write_beton(sources.folder(tree), path, plan, num_workers=num_workers)
        assert done.rejected == [("ant/zzz.jpg", "not an image of a known format, or one with a damaged header")]
        written.append(content(path))
    assert written[0] == written[1] == written[2]


def test_manifest_tells_all(tree: Path, tmp_path: Path) -> None:
    (tree / "bee" / "001.jpg").write_bytes((tree / "bee" / "001.jpg").read_bytes()[:300])
    (tree / "cow" / "003.png").write_bytes(encoded(picture(1), "PNG"))
    path = tmp_path / "all.beton"
    done = write_beton(sources.folder(tree), path, WritePlan("passthrough"), num_workers=2)
    assert (done.num_done, len(done.rejected), done.num_kept, done.num_bytes) == (19, 1, 17, path.stat().st_size)
    manifest = json.loads(manifest_path(path).read_text())
    assert manifest["schema"] == 1
    assert manifest["fields"] == {"image": "RGBImageField", "label": "IntField", "index": "IntField"}
    assert manifest["source"]["name"] == "folder"
    assert manifest["source"]["root"] == str(tree)
    assert manifest["options"]["write_mode"] == "passthrough"
    assert manifest["samples_per_class"] == {"ant": 6, "bee": 5, "cow": 7}
    [[name, reason]] = manifest["rejected"]
    assert name == "bee/001.jpg"
    assert reason.startswith("corrupt JPEG (")
    listed = [name for name, _ in manifest["samples"]]
    assert len(listed) == 18
    assert "bee/001.jpg" not in listed
    assert "cow/003.png" in listed
    beton = open_beton(path)
    assert beton.labels.tolist() == [0] * 6 + [1] * 5 + [2] * 7
    assert set(beton.modes.tolist()) == {IMAGE_JPEG}


def test_limit_takes_a_part_of_the_order(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.beton"
    write_beton(sources.folder(tree), path, WritePlan("raw", limit=4), num_workers=0)
    assert open_beton(path).labels.tolist() == [0, 0, 0, 0]
    write_beton(sources.folder(tree), path, WritePlan("raw", limit=4, shuffle_seed=1), num_workers=0)
    expected = permutation(18, 1)[:4] // 6
    assert open_beton(path).labels.tolist() == expected.tolist()


def test_on_bad_fail_stops_at_the_first(tree: Path, tmp_path: Path) -> None:
    (tree / "bee" / "000.jpg").write_bytes(b"")
    with pytest.raises(WriteError, match=r"bee/000\.jpg: empty file; --on-bad skip"):
        write_beton(sources.folder(tree), tmp_path / "o" / "x.beton", WritePlan("raw"), num_workers=1, on_bad="fail")
    assert list((tmp_path / "o").iterdir()) == []


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "a" / "x.jpg").write_text("no")
    with pytest.raises(WriteError, match=r"none of 1 images can be used; the first, a/x\.jpg: not an image"):
        write_beton(sources.folder(tmp_path / "raw"), tmp_path / "o" / "x.beton", WritePlan("raw"), num_workers=0)
    assert list((tmp_path / "o").iterdir()) == []


def test_dangling_links_are_rejected_and_vanished_files_stop_the_write(tree: Path, tmp_path: Path) -> None:
    (tree / "ant" / "link.jpg").symlink_to("nowhere")
    path = tmp_path / "x.beton"
    done = write_beton(sources.folder(tree), path, WritePlan("raw"), num_workers=0)
    assert done.rejected == [("ant/link.jpg", "link to a missing file")]
    source = sources.folder(tree)
    (tree / "cow" / "002.jpg").unlink()
    with pytest.raises(WriteError, match=r"cannot read .*cow/002\.jpg"):
        write_beton(source, tmp_path / "y.beton", WritePlan("raw"), num_workers=1)


def test_what_is_no_image_file_is_named_and_left_out(tree: Path, tmp_path: Path) -> None:
    """None of these may fill the memory, wait for ever or end the write."""
    with (tree / "ant" / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)
    (tree / "ant" / "itself.jpg").symlink_to("itself.jpg")
    (tree / "ant" / "zeros.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (tree / "ant" / "zz_pipe.jpg").symlink_to(tmp_path / "pipe")
    done = write_beton(sources.folder(tree), tmp_path / "x.beton", WritePlan("passthrough"), num_workers=1)
    assert done.rejected == [
        ("ant/huge.jpg", f"file of {1 << 40:,} bytes, allowed: {1 << 31:,} (32 for each of --max-pixels)"),
        ("ant/itself.jpg", "link to itself"),
        ("ant/zeros.jpg", "no regular file"),
        ("ant/zz_pipe.jpg", "no regular file"),
    ]
    assert open_beton(tmp_path / "x.beton").num_samples == 18


def test_flawed_images_are_named(tree: Path, tmp_path: Path) -> None:
    whole = (tree / "bee" / "001.jpg").read_bytes()
    (tree / "bee" / "001.jpg").write_bytes(whole[:-2] + b"\x12" * 40 + whole[-2:])
    path = tmp_path / "x.beton"
    done = write_beton(sources.folder(tree), path, WritePlan("passthrough"), num_workers=1)
    assert (done.num_kept, done.rejected) == (17, [])
    [[name, flaw]] = read_manifest(path)["flawed"]
    assert name == "bee/001.jpg"
    assert "extraneous bytes before marker 0xd9" in flaw


def test_already_written(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    source, plan = sources.folder(tree), WritePlan("passthrough")
    assert not already_written(source, path, plan)
    write_beton(source, path, plan, num_workers=0)
    assert already_written(source, path, plan)
    manifest = manifest_path(path)
    manifest.write_text(manifest.read_text().replace('"limit": null', '"limit": null, "of an older version": 1'))
    assert already_written(source, path, plan)
    with pytest.raises(BetonError, match=r"quality 90 there, 80 wanted.*--overwrite"):
        already_written(source, path, WritePlan("passthrough", quality=80))
    (tree / "ant" / "new.jpg").write_bytes(encoded(picture(3)))
    with pytest.raises(BetonError, match="num_listed 18 there, 19 wanted"):
        already_written(sources.folder(tree), path, plan)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BetonError, match=r"not whole.*--overwrite"):
        already_written(source, path, plan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0}, "--quality is 0, allowed: 1 to 100"),
        ({"max_resolution": 0}, "--max-resolution is 0"),
        ({"jpg_proportion": 1.5}, "--jpg-proportion is 1.5, allowed: 0 to 1"),
        ({"limit": 0}, "--limit is 0"),
        ({"max_pixels": 2**40}, "--max-pixels"),
        ({"write_mode": "smart"}, "allowed: passthrough, jpg, raw, proportion"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WritePlan(**({"write_mode": "raw"} | options))


MIB = 1 << 20


@given(
    label_length=st.sampled_from([0, 1, 20, 3000]),
    sizes=st.lists(st.integers(1, 3 * MIB) | st.sampled_from([1, 2 * MIB, 5 * MIB]), min_size=1, max_size=8),
)
@settings(max_examples=30, deadline=None)
def test_samples_never_straddle_a_page(
    tmp_path_factory: pytest.TempPathFactory, label_length: int, sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("pages") / "x.beton"
    with path.open("wb") as file:
        beton_file = BetonFile(file, len(sizes) + 3, label_length)
        for number, size in enumerate(sizes):
            label = np.full(label_length, number, np.int8) if label_length else number
            beton_file.append(Encoded(IMAGE_JPEG, 1, 1, 0, False, bytes([number + 1]) * size), label, number)
        beton_file.finish()
    beton = open_beton(path)
    assert beton.page_size >= max(2 * MIB, max(sizes))
    assert beton.page_size & (beton.page_size - 1) == 0
    shape = (len(sizes), label_length) if label_length else (len(sizes),)
    assert (np.arange(len(sizes)) == beton.labels.T).all()
    assert beton.labels.shape == shape
    table = beton.memory[-len(sizes) * beton.labels.ndim * ALLOCATION.itemsize :].view(ALLOCATION)
    starts, ends = table["ptr"].astype(int), (table["ptr"] + table["size"]).astype(int) - 1
    np.testing.assert_array_equal(table["ptr"][: len(sizes)], beton.pointers)
    np.testing.assert_array_equal(starts // beton.page_size, ends // beton.page_size)
    assert beton.sizes.tolist() == sizes
    for number, size in enumerate(sizes):
        assert beton.image_bytes(number).tobytes() == bytes([number + 1]) * size
    assert (beton.memory.size - table.nbytes) % 8 == 0


def test_a_large_sample_enlarges_the_page(tmp_path: Path) -> None:
    (tmp_path / "raw" / "a").mkdir(parents=True)
    for number, width in enumerate((100, 1000, 200)):
        (tmp_path / "raw" / "a" / f"{number}.jpg").write_bytes(encoded(picture(number, width, 1000)))
    path = tmp_path / "x.beton"
    write_beton(sources.folder(tmp_path / "raw"), path, WritePlan("raw"), num_workers=0)
    assert read_manifest(path)["page_size"] == open_beton(path).page_size == 4 * MIB
    assert list(problems(path)) == []
