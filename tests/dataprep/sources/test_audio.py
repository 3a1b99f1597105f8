"""Sound by the command: ESC-50's folds, class folders, names with a pattern; what plain FFCV reads of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataprep.beton.contract import BetonError, manifest_samples, open_beton, read_beton, read_manifest
from dataprep.beton.layout import DESCRIPTOR, HEADER
from dataprep.beton.manifest import channel_statistics
from dataprep.beton.verification import problems
from dataprep.write_ffcv import main
from tests import tones

FFCV_LOADER = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.bytes import BytesDecoder
from ffcv.loader import Loader, OrderOption
numbers = {name: [IntDecoder()] for name in ("label", "index", "samples", "fold", "recording")}
pipelines = {"sound": [BytesDecoder()], **numbers}
loader = Loader(sys.argv[1], 4, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False, pipelines=pipelines)
for sounds, *columns in loader:
    for sound, label, index, samples, fold, recording in zip(sounds, *columns):
        values = np.asarray(sound)[: 2 * samples.item()].view("<i2")
        print(label.item(), fold.item(), recording.item(), values.astype(int).sum(), np.abs(values.astype(int)).max())
"""
STORED = ["--rate-hz", "4000", "--clip-seconds", "0.25", "--num-workers", "0"]


def _write(root: Path, *more: str, out: str = "out") -> int:
    return main(["audio", "--root", str(root), "--out", str(root.parent / out), *STORED, *more])


@pytest.fixture
def esc(tmp_path: Path) -> Path:
    """ESC-50's layout with 2 classes, 5 folds and 2 takes of each recording."""
    root = tmp_path / "ESC-50"
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for target, category in enumerate(("rain", "dog")):
        for fold in range(1, 6):
            source = 1000 * target + fold
            for take in "AB":
                name = f"{fold}-{source}-{take}-{target}.wav"
                lines.append(f"{name},{fold},{target},{category},False,{source},{take}")
                values = tones.tone(200 + 400 * target, 2 * fold + (take == "A"))
                (root / "audio" / name).write_bytes(tones.encoded(values))
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return root


def test_a_fold_is_held_out_with_its_recordings(esc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _write(esc, "--fold", "5", "--allow-partial") == 0
    train, val = (open_beton(esc.parent / "out" / f"{split}.beton") for split in ("train", "val"))
    assert (train.num_samples, val.num_samples) == (16, 4)
    assert (train.pixels.rate_hz, set(train.widths.tolist()), set(train.heights.tolist())) == (4000, {1000}, {1})
    assert (sorted(set(train.clips["fold"].tolist())), set(val.clips["fold"].tolist())) == ([1, 2, 3, 4], {5})
    assert len(np.unique(train.clips["recording"])) == 8
    assert not np.intersect1d(train.clips["recording"], val.clips["recording"]).size
    assert read_manifest(train.path)["classes"] == ["rain", "dog"]
    names = [name for name, _ in manifest_samples(train.path)]
    first = tones.encoded((train.decode(0)[0, :, 0]).astype(np.int16))
    assert first == (esc / names[0]).read_bytes()
    assert not list(problems(train.path, decode=True))
    mean, (deviation,) = channel_statistics(train.path) or ((), (0.0,))
    squares = [np.square(train.decode(sample) / 32768).mean() for sample in range(16)]
    assert mean == (0.0,)
    assert deviation == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)
    capsys.readouterr()
    assert main(["info", str(train.path)]) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in ("sound at 4,000 Hz", "1,000 samples, 0.25 s", "1, 2, 3, 4", "recordings"))


@pytest.mark.ffcv
@pytest.mark.slow
def test_plain_ffcv_reads_it(esc: Path) -> None:
    assert _write(esc, "--fold", "5", "--allow-partial") == 0
    beton = open_beton(esc.parent / "out" / "val.beton")
    command = [sys.executable, "-c", FFCV_LOADER, str(beton.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    wanted = [
        [int(beton.labels[sample]), 5, int(beton.clips["recording"][sample]), values.sum(), np.abs(values).max()]
        for sample in range(beton.num_samples)
        for values in [beton.decode(sample).astype(int)]
    ]
    assert [list(map(int, line.split())) for line in done.stdout.splitlines()] == wanted


def test_other_numbers_than_the_published_ones_are_told(esc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _write(esc, "--fold", "5") == 1
    assert "esc50 train: 16 images" in capsys.readouterr().err


def test_class_folders_and_names_give_the_same_labels(tmp_path: Path) -> None:
    root = tones.make_tree(tmp_path / "raw", 3)
    assert _write(root, "--hold-out", "/000", out="folders") == 0
    pattern = r"^(?P<label>\w+)/(?P<recording>\d+)\.wav$"
    assert _write(root, "--pattern", pattern, "--hold-out", "/000", out="names") == 0
    folders, names = (open_beton(tmp_path / kind / "train.beton") for kind in ("folders", "names"))
    assert folders.labels.tolist() == names.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert folders.num_samples == len(np.unique(folders.clips["recording"]))
    assert len(np.unique(names.clips["recording"])) == 2
    for sample in range(folders.num_samples):
        np.testing.assert_array_equal(folders.decode(sample), names.decode(sample))


def test_bad_files_are_named_and_the_rest_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tones.make_tree(tmp_path / "raw", 2)
    whole = (root / "low" / "000.wav").read_bytes()
    bad = {"a.wav": b"", "b.wav": whole[:-100], "c.txt": b"notes", "d.wav": tones.encoded(np.zeros(1000))}
    for name, content in bad.items():
        (root / "low" / name).write_bytes(content)
    (root / "low" / "e.flac").write_bytes(tones.encoded(np.stack([tones.tone(220, 5, 8000)] * 2, axis=1), 8000, "FLAC"))
    assert _write(root) == 0
    manifest = read_manifest(tmp_path / "out" / "train.beton")
    reasons = dict(manifest["rejected"])
    assert list(reasons) == [f"low/{name}" for name in bad]
    for reason, said in zip(reasons.values(), ("empty file", "cut off", "no sound", "silent"), strict=True):
        assert said in reason
    assert open_beton(tmp_path / "out" / "train.beton").num_samples == 9
    assert _write(root, "--on-bad", "fail", out="strict") == 1
    assert "empty file" in capsys.readouterr().err
    assert not (tmp_path / "strict" / "train.beton").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pattern", "(label"], "no regular expression"),
        (["--pattern", r"(\w+)/"], "needed: (?P<label>...)"),
        (["--pattern", r"(?P<label>\d+)_x"], "is found in none of 8 files"),
        (["--pattern", r"(?P<fold>\w+)/(?P<label>\d+)", "--fold", "1"], "the fold 'high', allowed: whole numbers"),
        (["--fold", "3"], "holds out 0 of 8 clips"),
        (["--hold-out", "wav"], "holds out 8 of 8 clips"),
        (["--hold-out", "low", "--fold", "1"], "give one"),
        (["--pattern", r"^(?P<label>\w+)/(?P<recording>\d+)", "--hold-out", "low/000"], "divides 1 recordings"),
        (["--clip-seconds", "0.01"], "--clip-seconds is 0.01, allowed: 256 to"),
        (["--rate-hz", "10"], "allowed: 1,000 to 384,000"),
        (["--max-resolution", "100"], "--max-resolution is of images"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    root = tones.make_tree(tmp_path / "raw", 2)
    assert _write(root, *options) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.beton*"))


def test_a_header_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = tones.write(tmp_path / "tones", 3)
    content = bytearray((folder / "val.beton").read_bytes())
    place = HEADER.itemsize + DESCRIPTOR.fields["arguments"][1]
    content[place + 2 : place + 6] = (10).to_bytes(4, "little")  # 10 Hz
    (tmp_path / "other.beton").write_bytes(content)
    with pytest.raises(BetonError, match="does not say what its sounds are"):
        read_beton(tmp_path / "other.beton")
