"""Captions from COCO's lists and from a table: what is kept, what is named, what plain FFCV reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.beton.captions import CAPTIONS, BadCaptions, decode_captions, encode_captions
from dataprep.beton.contract import open_beton, read_manifest
from dataprep.sources import captions, digit_captions
from dataprep.write_ffcv import main
from drills.jpeg_damage import encoded, picture

TABLE = b"""image,caption
a.jpg,A  dog runs .
a.jpg,"Two dogs, one ball."
b.jpg,A cat.
b.jpg,...
c.jpg,caf\xe9
gone.jpg,Nobody is there.
"""


def _images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded(picture(number, 30, 40), quality=85))


def _table(root: Path, content: bytes = TABLE) -> Path:
    _images(root / "images", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (root / "captions.txt").write_bytes(content)
    return root


def _captions(beton: Path) -> list[list[str]]:
    opened = open_beton(beton)
    return [decode_captions(opened.field_bytes(CAPTIONS, sample).tobytes()) for sample in range(opened.num_samples)]


def test_a_table_is_kept_and_what_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = _table(tmp_path / "raw"), tmp_path / "out"
    assert main(["captions", "--root", str(root), "--out", str(out), "--num-workers", "0"]) == 0
    assert "an image of the captions is not there, such as gone.jpg: left out" in capsys.readouterr().err
    assert _captions(out / "train.beton") == [["A dog runs .", "Two dogs, one ball."], ["A cat."]]
    manifest = read_manifest(out / "train.beton")
    assert manifest["rejected"] == [
        ["images/c.jpg", "it has no caption; a caption is not UTF-8 (caf\\udce9)"],
        ["images/d.jpg", "it has no caption"],
    ]
    assert manifest["left_out"] == [["images/b.jpg", "a caption has no word ('...')"]]
    assert manifest["words"] == {"a": 2, "ball": 1, "cat": 1, "dog": 1, "dogs": 1, "one": 1, "runs": 1, "two": 1}
    assert main(["verify", str(out / "train.beton")]) == 0
    capsys.readouterr()
    assert main(["info", str(out / "train.beton")]) == 0
    assert "3, 1 to 2 of an image" in capsys.readouterr().out


def test_held_out_images_are_in_no_other_split(tmp_path: Path) -> None:
    lines = b"image,caption\n" + b"".join(b"%d.jpg,number %d\n" % (n, n) for n in range(10))
    _images(tmp_path / "images", *(f"{n}.jpg" for n in range(10)))
    (tmp_path / "captions.txt").write_bytes(lines)
    train, val = captions.open_splits(tmp_path, None, True, 3, 0)
    names = [{source.relative_path(sample) for sample in range(len(source))} for source in (train, val)]
    assert [len(part) for part in names] == [7, 3]
    assert not names[0] & names[1]


def _coco(root: Path) -> Path:
    chosen: list[dict[str, Any]] = []
    texts: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for number, (part, split) in enumerate(
        [("train", "train"), ("val", "restval"), ("val", "val"), ("val", "test"), ("train", "train")]
    ):
        name = f"COCO_{number}.jpg"
        chosen.append({"filename": name, "filepath": f"{part}2014", "cocoid": 10 + number, "split": split})
        texts[part].append({"image_id": 10 + number, "caption": f"caption {number}", "id": 0})
    for part, of_part in texts.items():
        names = [one["filename"] for one in chosen if one["filepath"].startswith(part)]
        _images(root / f"{part}2014", *names)
        ids = [{"id": one["image_id"], "file_name": "x"} for one in of_part]
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"captions_{part}2014.json").write_text(
            json.dumps({"images": ids, "annotations": [*of_part, *([of_part[0]] if part == "val" else [])]})
        )
    (root / "dataset_coco.json").write_text(json.dumps({"images": chosen, "dataset": "coco"}))
    return root


def test_coco_has_karpathys_splits(tmp_path: Path) -> None:
    root = _coco(tmp_path / "raw")
    assert main(["captions", "--root", str(root), "--out", str(tmp_path / "out"), "--num-workers", "0"]) == 0
    found = {split: _captions(tmp_path / "out" / f"{split}.beton") for split in ("train", "val", "test")}
    assert found == {
        "train": [["caption 0"], ["caption 1", "caption 1"], ["caption 4"]],
        "val": [["caption 2"]],
        "test": [["caption 3"]],
    }
    (without,) = captions.open_splits(root, "train", False, 0, 0)
    assert len(without) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a.jpg,A dog.\n", "does not begin with a line image,caption; add it"),
        (b"image,caption\na.jpg,A dog, a cat.\n", "line 2 is a.jpg,A dog, a cat., expected an image and a caption"),
        (b"image,caption\nz.jpg,A dog.\n", "speaks of none of the 4 images in"),
    ],
)
def test_a_table_that_is_none_is_refused(
    tmp_path: Path, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _table(tmp_path / "raw", content)
    assert main(["captions", "--root", str(root), "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_field_of_captions_is_refused() -> None:
    whole = encode_captions(["a dog", "ein Hündchen"])
    assert decode_captions(whole) == ["a dog", "ein Hündchen"]
    for damaged in (whole[:3], whole[:9], whole[:-1], bytes(4), whole + b"A", b""):
        with pytest.raises(BadCaptions):
            decode_captions(damaged)
    broken = whole[:-4] + b"\xff" + whole[-3:]
    with pytest.raises(BadCaptions, match="not UTF-8"):
        decode_captions(broken)


@pytest.mark.ffcv
def test_plain_ffcv_reads_the_captions(tmp_path: Path) -> None:
    from ffcv.fields import BytesField
    from ffcv.fields.decoders import BytesDecoder
    from ffcv.loader import Loader, OrderOption

    assert (
        main(["captions", "--root", str(_table(tmp_path / "raw")), "--out", str(tmp_path), "--num-workers", "0"]) == 0
    )
    pipelines = {"captions": [BytesDecoder()], "image": None, "label": None, "index": None}
    loader = Loader(
        str(tmp_path / "train.beton"),
        batch_size=1,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines=pipelines,
        custom_fields={"captions": BytesField},
    )
    rows = [np.asarray(batch[0])[0] for batch in loader]
    for row, expected in zip(rows, _captions(tmp_path / "train.beton"), strict=True):
        content = encode_captions(expected)
        assert row[: len(content)].tobytes() == content


def test_spelled_out_digits_are_other_numbers_in_each_split() -> None:
    train, val = (digit_captions.open_split(split) for split in ("train", "val"))
    names = [{source.relative_path(sample) for sample in range(len(source))} for source in (train, val)]
    assert [len(part) for part in names] == [800, 200]
    assert not names[0] & names[1]
    assert val.captions is not None
    spelled = val.relative_path(3).replace("-", " ")
    assert val.captions(3).captions == (spelled, f"The number {spelled}.")
