"""Every change of a written file is found and named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dataprep.beton import verification
from dataprep.beton.contract import manifest_path, open_beton
from dataprep.beton.layout import HEADER
from dataprep.sources import class_folders as sources
from dataprep.sources import digits
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_images import encoded, picture


@pytest.fixture(params=["passthrough", "raw"])
def path(request: pytest.FixtureRequest, tree: Path, tmp_path: Path) -> Path:
    path = tmp_path / "out" / "all.beton"
    write_beton(sources.folder(tree), path, WritePlan(request.param), num_workers=0)
    return path


def problems(path: Path, **options: object) -> list[str]:
    return [problem.text for problem in verification.problems(path, **options)]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def test_a_whole_file_has_no_problems(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert problems(path, decode=True, report=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (18, 18)


def test_a_flipped_byte_of_a_sample_is_named(path: Path) -> None:
    beton = open_beton(path)
    for sample in (2, 11):
        flip(path, int(beton.pointers[sample] + beton.sizes[sample] // 2))
    found = problems(path)
    assert [line.split(":")[0] for line in found] == ["sample 2 (ant/002.jpg)", "sample 11 (bee/005.jpg)"]
    assert all("have changed" in line for line in found)


def test_a_flipped_byte_anywhere_is_found(path: Path) -> None:
    whole = path.read_bytes()
    beton = open_beton(path)
    data = int(beton.pointers[0])
    table = int(np.frombuffer(whole, HEADER, 1)["alloc_table_ptr"][0])
    rng = np.random.default_rng(0)
    places = [*range(24), 30, 500, 3147, 3160, 3180, data - 1, *rng.integers(data, table, 10), table, len(whole) - 1]
    for place in places:
        flip(path, int(place))
        assert problems(path), f"a change of byte {place} went unnoticed"
        path.write_bytes(whole)


def test_a_changed_label_vector_is_named(tmp_path: Path) -> None:
    path = tmp_path / "digits.beton"
    source = digits.open_split("val", multi_label=True)
    write_beton(source, path, WritePlan("raw", limit=300), num_workers=0)
    assert problems(path) == []
    whole, beton = path.read_bytes(), open_beton(path)
    vectors = whole.index(beton.labels.tobytes(), int(beton.pointers[299]))  # behind the images, one after the other
    for sample in (0, 7, 299):
        flip(path, vectors + 5 * sample + 3)
        [problem] = problems(path)
        assert problem.startswith(f"sample {sample} ({source.relative_path(sample)}): its bytes have changed")
        path.write_bytes(whole)
    table = int(np.frombuffer(whole, HEADER, 1)["alloc_table_ptr"][0])
    for place in (3164, 3172, table + 300 * 24, len(whole) - 1):  # pointers in the metadata, rows of vectors
        flip(path, place)
        assert problems(path), f"a change of byte {place} went unnoticed"
        path.write_bytes(whole)


def test_a_cut_file_and_one_never_finished(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    [problem] = problems(path)
    assert "cut off" in problem
    header = np.frombuffer(whole[: HEADER.itemsize], HEADER).copy()
    header["alloc_table_ptr"] = 0
    path.write_bytes(header.tobytes() + whole[HEADER.itemsize :])
    [problem] = problems(path)
    assert "never finished" in problem


def test_a_missing_or_foreign_manifest(path: Path, tree: Path) -> None:
    manifest = manifest_path(path)
    whole = manifest.read_text()
    manifest.unlink()
    [problem] = problems(path)
    assert "no such file" in problem
    assert "checksum" in problem
    manifest.write_text(whole.replace('["cow/005.jpg"', '["cow/005.jpg", 1],\n["cow/more.jpg"'))
    found = problems(path)
    assert any("lists 19 samples, the beton has 18" in line for line in found)


def test_a_jpeg_of_another_size_is_named(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "all.beton"
    write_beton(sources.folder(tree), path, WritePlan("passthrough"), num_workers=0)
    beton = open_beton(path)
    other = encoded(picture(0, 33, 22), quality=20)
    start, size = int(beton.pointers[5]), int(beton.sizes[5])
    assert len(other) <= size
    content = bytearray(path.read_bytes())
    content[start : start + len(other)] = other
    path.write_bytes(content)
    found = problems(path)
    assert len(found) == 2
    assert "sample 5 (ant/005.jpg): the JPEG is 33 x 22, the metadata say 45 x 30" in found


def test_a_file_that_shrinks_meanwhile_is_a_problem(path: Path) -> None:
    def shrink(done: int, total: int) -> None:
        if done == 5:
            os.truncate(path, 4096)

    [problem] = problems(path, report=shrink)
    assert "cut off while it was open" in problem


def test_a_file_that_was_appended_to_itself(path: Path) -> None:
    whole = path.read_bytes()
    whole += bytes(-(len(whole) - open_beton(path).table_start + len(whole)) % 24)  # so that it may be a table
    path.write_bytes(whole + path.read_bytes())
    found = problems(path)
    assert len(found) < 10
    assert any("was something appended to the file?" in line for line in found)
