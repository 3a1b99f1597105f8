"""The reader against files of FFCV's own writer, and against damaged ones."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.synthetic_beton import tiny_jpeg, write_synthetic
from dataprep.beton.bytes import MAX_GAP_BYTES, MAX_RUN_BYTES, runs
from dataprep.beton.contract import BetonError, manifest_path, manifest_samples, open_beton, read_manifest
from dataprep.beton.layout import HEADER
from dataprep.beton.manifest import class_names, sample_checksums
from dataprep.sources import class_folders as sources
from dataprep.sources import digits
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_images import picture


class Pictures:
    """A data set as FFCV's writer wants it."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, sample: int) -> tuple[np.ndarray, float, int]:
        return picture(sample, 20 + sample, 30), sample / 2, sample % 5


@pytest.mark.ffcv
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_reads_what_ffcv_writes(tmp_path: Path, mode: str) -> None:
    from ffcv.fields import FloatField, IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    path = tmp_path / "theirs.beton"
    fields = {"image": RGBImageField(write_mode=mode), "weight": FloatField(), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Pictures(), chunksize=4)
    beton = open_beton(path)
    assert beton.field_names == ("image", "weight", "label")
    assert beton.num_samples == 12
    assert beton.labels.tolist() == [sample % 5 for sample in range(12)]
    for sample in range(12):
        found, expected = beton.decode(sample), picture(sample, 20 + sample, 30)
        assert found.shape == expected.shape
        error = np.abs(found.astype(int) - expected)
        assert error.max() == 0 if mode == "raw" else error.mean() < 5


class LabelledPictures(Pictures):
    """Pictures with label vectors of a numpy type."""

    def __init__(self, dtype: str) -> None:
        self.vectors = np.random.default_rng(0).integers(-1, 2, (12, 7)).astype(dtype)

    def __getitem__(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        return picture(sample, 20, 30), self.vectors[sample]


@pytest.mark.ffcv
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_label_vectors_that_ffcv_writes(tmp_path: Path, dtype: str) -> None:
    from ffcv.fields import NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    path, pictures = tmp_path / "theirs.beton", LabelledPictures(dtype)
    fields = {"image": RGBImageField(write_mode="raw"), "label": NDArrayField(np.dtype(dtype), (7,))}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(pictures, chunksize=4)
    if dtype == "float32":
        with pytest.raises(BetonError, match="arrays, but not vectors of int8"):
            open_beton(path)
        return
    beton = open_beton(path)
    assert beton.labels.dtype == np.int8
    np.testing.assert_array_equal(beton.labels, pictures.vectors)
    np.testing.assert_array_equal(beton.decode(3), picture(3, 20, 30))


def test_label_vectors_outside_the_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "digits.beton"
    write_beton(digits.open_split("val", multi_label=True), path, WritePlan("raw", limit=9), num_workers=0)
    whole, beton = path.read_bytes(), open_beton(path)
    manifest_path(path).unlink()
    table_start = int(np.frombuffer(whole, HEADER, 1)["alloc_table_ptr"][0])
    first_vector = int(beton.pointers[8] + beton.sizes[8])
    place = whole.index(first_vector.to_bytes(8, "little"))
    for pointer, good in ((table_start - 5, True), (table_start - 4, False), (2**63 + 5, False)):
        path.write_bytes(whole[:place] + pointer.to_bytes(8, "little") + whole[place + 8 :])
        if good:
            open_beton(path)
            continue
        with pytest.raises(BetonError, match="1 label vectors lie outside the data"):
            open_beton(path)


@pytest.fixture
def beton_path(tree: Path, tmp_path: Path) -> Path:
    path = tmp_path / "out" / "all.beton"
    write_beton(sources.folder(tree), path, WritePlan("passthrough"), num_workers=0)
    return path


def patch_header(path: Path, **values: int) -> None:
    content = bytearray(path.read_bytes())
    header = np.frombuffer(content, HEADER, 1).copy()
    for name, value in values.items():
        header[name] = value
    content[: HEADER.itemsize] = header.tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alloc_table_ptr": 0}, "never finished"),
        ({"version": 3}, "not a beton of version 2"),
        ({"num_samples": 0}, "no samples"),
        ({"num_samples": 10**15}, "missing"),
        ({"page_size": 3_000_000}, "page size"),
        ({"num_fields": 200}, "damaged"),
    ],
)
def test_refuses_damaged_headers(beton_path: Path, values: dict[str, int], message: str) -> None:
    patch_header(beton_path, **values)
    with pytest.raises(BetonError, match=message):
        open_beton(beton_path)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.99])
def test_refuses_files_that_are_cut(beton_path: Path, share: float) -> None:
    content = beton_path.read_bytes()
    beton_path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BetonError, match=r"cut off|no beton|bytes are missing"):
        open_beton(beton_path)


def test_images_are_read_without_a_map(beton_path: Path) -> None:
    beton = open_beton(beton_path)
    wanted = np.array([5, 2, 3, 2, 0])
    found = beton.read_images(wanted)
    assert "mapped" not in vars(beton.file)
    assert found.keys() == set(wanted.tolist())
    for sample, stored in found.items():
        assert np.array_equal(stored, beton.image_bytes(sample))
        assert np.array_equal(beton.decode(sample, stored), beton.decode(sample))


def test_an_open_beton_stays_the_file_that_was_opened(beton_path: Path, tmp_path: Path) -> None:
    expected = open_beton(beton_path)
    contents = [expected.image_bytes(sample).tobytes() for sample in range(expected.num_samples)]
    beton = open_beton(beton_path)
    other = tmp_path / "other"
    other.write_bytes(bytes(100))
    other.replace(beton_path)
    assert beton.read_images(np.array([1]))[1].tobytes() == contents[1]
    assert beton.image_bytes(2).tobytes() == contents[2]
    with pytest.raises(BetonError, match="not a beton of version"):
        open_beton(beton_path)


@pytest.mark.parametrize("scatter", [False, True])
@pytest.mark.parametrize("num", [1, 70_000])
def test_sizes_and_labels_of_many_samples(tmp_path: Path, num: int, scatter: bool) -> None:
    """More rows than are read at a time; with `scatter` the allocation table has another order than the samples."""
    path, contents = tmp_path / "many.beton", [tiny_jpeg(), tiny_jpeg(9), bytes(3) + tiny_jpeg(10)]
    write_synthetic(path, contents, np.arange(num) * 7, 8, raw=False, scatter=scatter)
    beton = open_beton(path)
    assert np.array_equal(beton.labels, np.arange(num) * 7)
    assert np.array_equal(beton.sizes, np.array([len(content) for content in contents])[np.arange(num) % 3])
    for sample in {0, num // 2, num - 1}:
        assert beton.image_bytes(sample).tobytes() == contents[sample % 3]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 27), st.integers(1, 1 << 20)), max_size=30))
def test_runs_hold_every_range_once_and_no_large_gap(ranges: list[tuple[int, int]]) -> None:
    starts, sizes = (np.array(sorted(ranges), np.int64).reshape(-1, 2)[:, column] for column in (0, 1))
    found = runs(starts, sizes)
    assert [place for run in found for place in range(len(starts))[run]] == list(range(len(starts)))
    for run in found:
        assert len(starts[run]) > 0
        assert starts[run][-1] - starts[run][0] < MAX_RUN_BYTES
        assert (starts[run][1:] - (starts + sizes)[run][:-1] <= MAX_GAP_BYTES).all()


@pytest.fixture(scope="module", params=["classes", "vectors"])
def whole_beton(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "digits.beton"
    source = digits.open_split("val", multi_label=request.param == "vectors")
    write_beton(source, path, WritePlan("raw", limit=40), num_workers=0)
    return path


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_of_head_labels_or_tables_is_seen_when_a_beton_is_opened(
    whole_beton: Path, data: st.DataObject
) -> None:
    whole, beton = whole_beton.read_bytes(), open_beton(whole_beton)
    behind_images = int(beton.pointers[-1] + beton.sizes[-1])
    head = st.integers(0, read_manifest(whole_beton)["head_bytes"] - 1)
    labels = st.integers(behind_images, behind_images + beton.labels.size - 1)
    tables = st.integers(beton.table_start, len(whole) - 1)
    place = data.draw(st.one_of(head, tables, labels) if beton.labels.ndim == 2 else st.one_of(head, tables))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    whole_beton.write_bytes(damaged)
    try:
        with pytest.raises(BetonError, match=re.escape(str(whole_beton))):
            open_beton(whole_beton)
    finally:
        whole_beton.write_bytes(whole)


def test_the_manifest_of_another_beton_is_refused(beton_path: Path, tree: Path) -> None:
    other = beton_path.with_name("other.beton")
    write_beton(sources.folder(tree), other, WritePlan("passthrough", shuffle_seed=1), num_workers=0)
    manifest_path(other).replace(manifest_path(beton_path))
    with pytest.raises(BetonError, match=r"not those that were written \(head_crc32, table_crc32, labels_crc32"):
        open_beton(beton_path)


@pytest.mark.parametrize("age", ["without a manifest", "without checksums"])
def test_betons_without_checksums_open_and_that_is_said_once(
    beton_path: Path, age: str, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = manifest_path(beton_path)
    if age == "without a manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace("head_crc32", "of another name"))
    for _ in range(3):
        assert open_beton(beton_path).num_samples == 18
    [said] = caplog.messages
    assert str(beton_path) in said
    assert "labels and tables" in said


STRUCTURES = [
    b"null",
    b"[]",
    b"3",
    b'"x"',
    b"{}",
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    b"\xef\xbb\xbf{}",
    b'{"schema": 1}',
]


@pytest.mark.parametrize("content", STRUCTURES)
def test_a_manifest_of_another_structure_is_one_line(beton_path: Path, content: bytes) -> None:
    path = manifest_path(beton_path)
    path.write_bytes(content)
    readers = [read_manifest, class_names, lambda beton: list(manifest_samples(beton)), sample_checksums]
    for reader in [*readers, open_beton]:
        if content == STRUCTURES[-1] and reader in (read_manifest, open_beton):
            continue  # old, and without checksums
        with pytest.raises(BetonError, match=re.escape(str(path))) as error:
            reader(beton_path)
        assert "\n" not in str(error.value)


@given(
    values=st.dictionaries(
        st.sampled_from(["head_bytes", "head_crc32", "table_crc32", "labels_crc32", "classes"]),
        st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
        min_size=1,
    )
)
@settings(max_examples=60, deadline=None)
def test_other_values_in_a_manifest_are_one_line(whole_beton: Path, values: dict[str, object]) -> None:
    path, whole = manifest_path(whole_beton), manifest_path(whole_beton).read_text()
    try:
        path.write_text("".join(json.dumps(json.loads(whole) | values | {"samples": []})))
        for reader in (open_beton, class_names):
            with contextlib.suppress(BetonError):
                reader(whole_beton)
    finally:
        path.write_text(whole)


def test_class_names_are_those_of_the_manifest(beton_path: Path) -> None:
    assert class_names(beton_path) == ("ant", "bee", "cow")
    manifest = manifest_path(beton_path)
    manifest.write_text(manifest.read_text().replace('"bee", "cow"]', '"ant", "cow"]'))
    with pytest.raises(BetonError, match="different names"):
        class_names(beton_path)
    manifest.unlink()
    assert class_names(beton_path) is None


def test_checksums_are_those_of_the_samples(whole_beton: Path) -> None:
    beton, found = open_beton(whole_beton), sample_checksums(whole_beton)
    assert found.tolist() == [crc for _, crc in manifest_samples(whole_beton)]
    assert found.tolist() == [beton.checksum(sample, beton.image_bytes(sample)) for sample in range(40)]


def test_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BetonError, match="no such file"):
        open_beton(tmp_path / "absent.beton")


def test_refuses_pointers_outside_the_data(beton_path: Path) -> None:
    content = bytearray(beton_path.read_bytes())
    pointer = open_beton(beton_path).pointers[4].tobytes()
    place = content.index(pointer)
    content[place : place + 8] = (2**63).to_bytes(8, "little")
    beton_path.write_bytes(content)
    with pytest.raises(BetonError, match="the first is 4"):
        open_beton(beton_path)


def test_an_undecodable_sample_is_named(beton_path: Path) -> None:
    content = bytearray(beton_path.read_bytes())
    start = int(open_beton(beton_path).pointers[3])
    content[start : start + 200] = bytes(200)
    beton_path.write_bytes(content)
    beton = open_beton(beton_path)
    beton.decode(2)
    with pytest.raises(BetonError, match="sample 3"):
        beton.decode(3)


def test_travels_as_its_path(beton_path: Path) -> None:
    beton = open_beton(beton_path)
    sent = pickle.dumps(beton)
    assert len(sent) < 1000
    again = pickle.loads(sent)  # noqa: S301
    np.testing.assert_array_equal(again.pointers, beton.pointers)
    assert not beton.memory.flags.writeable


def test_manifest_head_and_samples(beton_path: Path, tree: Path) -> None:
    manifest = read_manifest(beton_path)
    assert manifest_path(beton_path).name == "all.beton.json"
    assert manifest["classes"] == ["ant", "bee", "cow"]
    assert manifest["samples_per_class"] == {"ant": 6, "bee": 6, "cow": 6}
    assert "samples" not in manifest
    names = [name for name, _ in manifest_samples(beton_path)]
    assert names == sorted(str(path.relative_to(tree)) for path in tree.glob("*/*"))


def test_manifest_problems_are_named(beton_path: Path) -> None:
    path = manifest_path(beton_path)
    whole = path.read_text()
    path.write_text(whole.replace('"schema": 1', '"schema": 9'))
    with pytest.raises(BetonError, match="schema is 9"):
        read_manifest(beton_path)
    path.write_text(whole[: whole.index('"cow/')])
    with pytest.raises(BetonError, match=r"ends before|damaged line"):
        list(manifest_samples(beton_path))
    path.write_text(whole[:40])
    with pytest.raises(BetonError, match="damaged"):
        read_manifest(beton_path)
    path.unlink()
    with pytest.raises(BetonError, match="no such file"):
        read_manifest(beton_path)


def test_a_sample_of_a_file_that_was_cut_while_it_was_open_is_an_error_and_no_signal(tmp_path: Path) -> None:
    """Bytes behind the end of a mapped file end the process by SIGBUS; so samples are read."""
    path = tmp_path / "train.beton"
    write_beton(digits.open_split("val"), path, WritePlan("raw"), num_workers=0)
    beton = open_beton(path)
    os.truncate(path, int(beton.pointers[-1]))
    with pytest.raises(BetonError, match="cut off while it was open"):
        beton.image_bytes(beton.num_samples - 1)
