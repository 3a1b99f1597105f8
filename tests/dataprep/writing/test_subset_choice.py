"""Choosing a subset: what the list names, or a draw from each class that never changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.beton import subset
from dataprep.beton.contract import BetonError, manifest_path, manifest_samples
from dataprep.beton.keyed_choice import keys
from dataprep.beton.subset import draw_per_class, read_subset
from dataprep.sources import class_folders as sources
from dataprep.sources import digits
from dataprep.writing.subset_choice import write_drawn, write_listed
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import WriteError, write_beton
from tests.dataprep.raw_images import make_tree

WNIDS = ("n01440764", "n01443537")


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    """Two classes of six photos with ImageNet's names, shuffled."""
    root = make_tree(tmp_path / "raw" / "train", classes=WNIDS)
    for path in root.glob("*/*"):
        path.rename(path.with_name(f"{path.parent.name}_{int(path.stem)}.JPEG"))
    path = tmp_path / "train.beton"
    write_beton(
        sources.imagenet(tmp_path / "raw", "train"), path, WritePlan("passthrough", shuffle_seed=1), num_workers=0
    )
    return path


def write_list(folder: Path, *names: str) -> Path:
    path = folder / "names.txt"
    path.write_text("\n".join(names) + "\n")
    return path


def test_samples_are_found_by_name(beton: Path, tmp_path: Path) -> None:
    names = ("n01443537_5.JPEG", "n01440764_0.JPEG", "n01443537_1.JPEG")
    list_file = write_list(tmp_path, *names)
    path, size = write_listed(beton, "mine", list_file, allow_other=True, overwrite=False)
    assert size == 3
    listed = [name for name, _ in manifest_samples(beton)]
    assert {listed[place].rpartition("/")[2] for place in read_subset(beton, "mine")} == set(names)
    checksum = hashlib.sha256(list_file.read_bytes()).hexdigest()
    assert json.loads(path.read_text())["made_from"] == {"list": "names.txt", "sha256": checksum}


def test_the_official_list_is_known_by_its_checksum(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_file = write_list(tmp_path, "n01440764_3.JPEG")
    found = hashlib.sha256(list_file.read_bytes()).hexdigest()
    one, ten = (subset.OFFICIAL_LISTS[f"simclr-{share}percent"][1] for share in (1, 10))
    with pytest.raises(ValueError, match=f"has SHA-256 {found}, expected {one} .1percent.txt.; get 1percent.txt from"):
        write_listed(beton, "simclr-1percent", list_file, allow_other=False, overwrite=False)
    with pytest.raises(ValueError, match=f"expected {one} .* or {ten} .*or add --allow-other-list"):
        write_listed(beton, "mine", list_file, allow_other=False, overwrite=False)
    assert list(tmp_path.glob("train.*.json")) == [manifest_path(beton)]
    monkeypatch.setitem(subset.OFFICIAL_LISTS, "simclr-10percent", ("10percent.txt", found))
    with pytest.raises(ValueError, match=f"expected {one}"):
        write_listed(beton, "simclr-1percent", list_file, allow_other=False, overwrite=False)
    for name in ("simclr-10percent", "mine"):
        assert write_listed(beton, name, list_file, allow_other=False, overwrite=False)[1] == 1


def test_samples_that_are_missing_are_named(beton: Path, tmp_path: Path) -> None:
    absent = [f"n09999999_{number}.JPEG" for number in range(5)]
    list_file = write_list(tmp_path, "n01440764_0.JPEG", *absent)
    with pytest.raises(
        ValueError, match=r"5 of the 6 samples .*: n09999999_0.JPEG, .*_2.JPEG \.\.\.; it must be the whole"
    ):
        write_listed(beton, "mine", list_file, allow_other=True, overwrite=False)
    assert not subset.subset_path(beton, "mine").exists()
    with pytest.raises(ValueError, match="names no samples"):
        write_listed(beton, "mine", write_list(tmp_path, ""), allow_other=True, overwrite=False)
    with pytest.raises(ValueError, match=r"absent\.txt cannot be read .*; get 1percent.txt from"):
        write_listed(beton, "simclr-1percent", tmp_path / "absent.txt", allow_other=True, overwrite=False)


def test_names_that_repeat_need_paths(tmp_path: Path) -> None:
    path = tmp_path / "train.beton"
    write_beton(sources.folder(make_tree(tmp_path / "raw")), path, WritePlan("raw"), num_workers=0)
    with pytest.raises(ValueError, match=r"000\.jpg in .* names two samples, the second is bee/000\.jpg; list paths"):
        write_listed(path, "mine", write_list(tmp_path, "000.jpg"), allow_other=True, overwrite=False)
    list_file = write_list(tmp_path, "cow/001.jpg", "bee/000.jpg")
    write_listed(path, "mine", list_file, allow_other=True, overwrite=False)
    assert read_subset(path, "mine").tolist() == [6, 13]


def test_a_manifest_of_another_beton_is_refused(beton: Path, tmp_path: Path) -> None:
    manifest = manifest_path(beton)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:-4] + lines[-3:]))
    with pytest.raises(BetonError, match="its manifest lists 11 samples, it has 12"):
        write_listed(beton, "mine", write_list(tmp_path, "n01440764_0.JPEG"), allow_other=True, overwrite=False)
    manifest.unlink()
    with pytest.raises(BetonError, match="no such file; a beton written by this suite has its manifest beside it"):
        write_listed(beton, "mine", write_list(tmp_path, "n01440764_0.JPEG"), allow_other=True, overwrite=False)


def test_another_subset_is_not_replaced_unasked(beton: Path) -> None:
    path, _ = write_drawn(beton, "half", 0.5, 0, overwrite=False)
    content = path.read_text()
    write_drawn(beton, "half", 0.5, 0, overwrite=False)  # the same again
    with pytest.raises(ValueError, match="exists and is another; --overwrite replaces it"):
        write_drawn(beton, "half", 0.5, 1, overwrite=False)
    assert path.read_text() == content
    write_drawn(beton, "half", 0.5, 1, overwrite=True)
    assert path.read_text() != content


def test_a_failed_write_leaves_nothing(beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise OSError("no space left")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(WriteError, match=r"cannot write .*train\.half\.json: no space left"):
        write_drawn(beton, "half", 0.5, 0, overwrite=False)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, float("nan")])
def test_bad_fractions(beton: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match=r"--fraction is .*, allowed: over 0, up to 1"):
        write_drawn(beton, "half", fraction, 0, overwrite=False)


def test_label_vectors_have_no_classes_to_draw_from(tmp_path: Path) -> None:
    path = tmp_path / "val.beton"
    write_beton(digits.open_split("val", multi_label=True), path, WritePlan("raw"), num_workers=0)
    with pytest.raises(ValueError, match="has label vectors; --fraction draws from classes"):
        write_drawn(path, "half", 0.5, 0, overwrite=False)


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=200),
    shares=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    seed=st.integers(-5, 2**40),
)
def test_a_draw_takes_its_share_of_each_class(labels: list[int], shares: tuple[float, float], seed: int) -> None:
    classes, all_keys = np.array(labels), keys(len(labels), seed).tolist()
    small, large = (draw_per_class(classes, share, seed) for share in sorted(shares))
    assert (np.diff(large) > 0).all()
    assert set(small) <= set(large)
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number).tolist()
        members.sort(key=lambda sample: all_keys[sample])
        expected = members[: max(1, int(len(members) * max(shares) + 0.5))]
        assert sorted(expected) == large[classes[large] == number].tolist()


def test_a_draw_never_changes() -> None:
    labels = np.arange(1000) % 3
    assert draw_per_class(labels, 0.004, 0).tolist() == [319, 366, 410]
    assert draw_per_class(labels, 0.004, 1).tolist() == [98, 565, 891]
    assert draw_per_class(labels, 1.0, 5).tolist() == list(range(1000))


def test_a_draw_is_even_over_the_samples() -> None:
    """Every sample of a class is drawn as often as the others: 400 draws of 10 of 100, within five deviations."""
    labels = np.zeros(100, np.int64)
    counts = np.bincount(
        np.concatenate([draw_per_class(labels, 0.1, seed * 1_000_003) for seed in range(400)]), minlength=100
    )
    assert abs(counts - 40).max() < 5 * (400 * 0.1 * 0.9) ** 0.5
