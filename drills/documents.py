"""Files of others: strange ones are a line that names them, malicious ones do nothing at all."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from border.text import HIDDEN
from dataprep.sources import cifar10_batches, imagenet_tars, published
from dataprep.writing.raw_source import SourceError
from drills.digits_runs import ROOT, DigitsRuns, ended
from drills.faults import refusal
from drills.jpeg_damage import encoded, picture
from drills.readers import (
    ERRORS,
    READERS,
    STRANGE,
    VALUES,
    Place,
    Reader,
    changed,
    document,
    parsed,
    places,
    quick,
    read_damaged,
    write_documents,
)
from drills.tally import Drill
from vicreg import checkpoint
from vicreg.exchange import encoder_file, foreign_checkpoints

CHANGES = 20
"""Of each document in a try, one at a time."""
NAMES = (
    "\x1b]0;owned\x07\x1b[2J",
    "a\nerror: all is lost\r",
    "\x9b31mred\u202egpj.exe",
    "[bold]x[/] a[/b] a[",
    "<script>alert(1)<b onclick='x'>\"&amp;",
    "`rm -rf` $(touch owned) ; 'x' | *_y_* [a](b) ![c](d)",
    "latin\udcff",
)
"""What would steer a terminal, Markdown, a page or a shell."""
OUTSIDE = "it-was-written"
TRACE = "it-was-run"
"""What malicious code would leave behind."""


def drills(runs: DigitsRuns) -> Sequence[Drill]:
    """All of this family."""

    def strange(number: int, folder: Path) -> None:
        _read_strange(runs, number, folder)

    return [
        Drill(f"strange documents for {len(READERS)} readers", strange, 2),
        Drill("safetensors with another header", _read_safetensors),
        Drill("tars that would write elsewhere", _read_tars),
        Drill("names that steer a terminal", _write_names),
        Drill("pickles that run code", _read_pickles),
    ]


def _read_strange(runs: DigitsRuns, number: int, folder: Path) -> None:
    """Each is an answer or one line that names the file; a traceback is a loss."""
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(runs.data / name, folder / name)
    place, draw = write_documents(folder), random.Random(number)
    with quick(place):
        for name, reader in READERS.items():
            for content in (*STRANGE, *(_another(reader, place, draw) for _ in range(CHANGES))):
                try:
                    read_damaged(reader, place, content)
                except Exception as error:
                    raise AssertionError(f"{name}, {content[:200]!r}: {type(error).__name__}: {error}") from error


def _another(reader: Reader, place: Place, draw: random.Random) -> bytes:
    """A document with another value somewhere, a flipped bit, or a part missing."""
    path = reader.path(place)
    is_address = reader is READERS["rendezvous.json"]  # of a few other characters it would be a stranger's
    content, way = bytearray(path.read_bytes()), 0 if is_address else draw.randrange(3)
    if way == 0:
        value = parsed(reader, path)
        other = changed(value, draw.choice(places(value)), draw.choice((*VALUES, ...)))
        return document(reader, path, other)
    where = draw.randrange(len(content))
    if way == 1:
        content[where] ^= 1 << draw.randrange(8)
    else:
        del content[where : draw.randint(where, len(content))]
    return bytes(content)


class _Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def malicious(trace: Path) -> list[_Call]:
    """What leaves a trace when it is unpickled without care."""
    return [
        _Call(os.mkdir, str(trace)),
        _Call(os.system, f"mkdir {trace}"),
        _Call(subprocess.call, ["mkdir", str(trace)]),
        _Call(builtins.eval, f"__import__('os').mkdir({str(trace)!r})"),
        _Call(builtins.exec, f"import os; os.mkdir({str(trace)!r})"),
        _Call(Path.mkdir, trace),
        _Call(shutil.copyfile, __file__, str(trace)),
        _Call(torch.hub.download_url_to_file, f"file://{__file__}", str(trace)),
    ]


def _read_pickles(_: int, folder: Path) -> None:
    """Nothing is run, in whatever file it lies, and each is refused."""
    trace = folder / TRACE
    for number, call in enumerate(malicious(trace)):
        for name, content in {"alone": call, "model": {"model": call}, "within": {"state_dict": {"a": [call]}}}.items():
            for form, is_zip in (("zip", True), ("legacy", False)):
                path = folder / f"{number}_{name}_{form}.pth"
                torch.save(content, path, _use_new_zipfile_serialization=is_zip)
                _refuse(foreign_checkpoints.read, path, trace)
                _refuse(encoder_file.load_encoder, path, trace)
        step = checkpoint.save(folder / f"checkpoints_{number}", 1, {"step": 1}, 1)
        torch.save({"step": 1, "method": call}, step / checkpoint.STATE_FILE)
        (step / checkpoint.MANIFEST_FILE).unlink()
        _refuse(checkpoint.load, step, trace)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            batch = folder / f"cifar_{number}_{protocol}" / "test_batch"
            batch.parent.mkdir()
            batch.write_bytes(pickle.dumps({b"data": call}, protocol))
            _refuse(_read_batch, batch.parent, trace)


def _read_batch(folder: Path) -> Any:
    return cifar10_batches.open_split(folder, "test")


def _refuse(read: Callable[[Path], Any], path: Path, trace: Path) -> None:
    said = refusal(lambda: read(path), (*ERRORS, SourceError))
    assert str(path) in said, f"{path.name}: {said or 'no error'}"
    assert not trace.exists(), f"code in {path.name} was run"


def _read_safetensors(number: int, folder: Path) -> None:
    """A header that is longer than the file, or whose tensors lie elsewhere."""
    whole = _safetensors(_tensor("1", "0,4"))
    path, draw = folder / "weights.safetensors", random.Random(number)
    path.write_bytes(whole)
    foreign_checkpoints.read(path)
    wrong = [struct.pack("<Q", size) + whole[8:] for size in (2**63, 2**64 - 1, 2**40, 10**8, len(whole), 0)]
    shapes = (("1", "0,8"), ("1", "4,8"), ("1", "-4,0"), ("1", "4,0"), ("2", "0,4"), (f"{2**62}", "0,4"), ("-1", "0,4"))
    wrong += [_safetensors(_tensor(shape, offsets)) for shape, offsets in shapes]
    wrong += [whole[: draw.randrange(len(whole))] for _ in range(CHANGES)]
    for content in wrong:
        path.write_bytes(content)
        _refuse(foreign_checkpoints.read, path, folder / TRACE)


def _tensor(shape: str, offsets: str) -> str:
    return f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[{offsets}]}}}}'


def _safetensors(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + bytes(4)


@contextmanager
def _nothing_written(around: Path, allowed: str) -> Iterator[None]:
    """AssertionError when files appear, go or change beside the folder `allowed`."""
    before = _all_files(around, allowed)
    yield
    after = _all_files(around, allowed)
    assert before == after, f"written outside: {sorted(before.items() ^ after.items())[:5]}"


def _all_files(around: Path, left_out: str) -> dict[str, bytes]:
    paths = [path for path in around.rglob("*") if path.is_file() and left_out not in path.relative_to(around).parts]
    return {str(path): path.read_bytes() for path in paths}


def _read_tars(_: int, folder: Path) -> None:
    """Members above the folder, absolute ones, links and devices: read in place, so none is ever written."""
    outside, photo = folder / OUTSIDE, encoded(picture(0))
    outside.mkdir()
    (outside / "kept.jpg").write_bytes(b"mine")
    above = (f"../{OUTSIDE}/kept", f"../../{OUTSIDE}/new", f"a/../../{OUTSIDE}/new", f"../{OUTSIDE}/new")
    names = (*above, f"{outside}/kept", f"{outside}/new", "link/new")
    shard = folder / "raw" / "train" / "000.tar"
    shard.parent.mkdir(parents=True)
    devkit = folder / "imagenet" / f"{imagenet_tars.DEVKIT}.tar.gz"
    devkit.parent.mkdir()
    for path, mode in ((shard, "w"), (devkit, "w:gz")):
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for kind, target in (
                (tarfile.SYMTYPE, str(outside)),
                (tarfile.LNKTYPE, "/etc/passwd"),
                (tarfile.CHRTYPE, ""),
            ):
                member = tarfile.TarInfo("link" if kind == tarfile.SYMTYPE else f"special{kind!r}.jpg")
                member.type, member.linkname = kind, target
                archive.addfile(member)
            for number, name in enumerate(names):
                for suffix, content in (("jpg", photo), ("cls", f"../../{OUTSIDE}/class".encode())):
                    member = tarfile.TarInfo(f"{name}{number}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    (devkit.parent / published.IMAGENET["val"].name).write_bytes(shard.read_bytes())
    with _nothing_written(folder, "out"):
        code, said = _written("folder", shard.parents[1], folder / "out", "train")
        assert code == 0, said
        code, said = _written("imagenet", devkit.parent, folder / "out" / "imagenet", "val")
        assert code == 1, said
    require_quiet(said)
    assert not (ROOT / ".." / OUTSIDE).exists(), "a member was written beside the suite"
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["train.beton", "train.beton.json"]


def _write_names(_: int, folder: Path) -> None:
    """Class folders, photos and labels in tars: the beton is written, looked at and complained of, and all is quiet."""
    safe = [name.replace("/", "-") for name in NAMES]
    for number, name in enumerate(safe):
        place = folder / "raw" / "train" / name
        place.mkdir(parents=True)
        (place / f"good{name}.jpg").write_bytes(encoded(picture(number)))
        (place / f"bad{name}.jpg").write_bytes(b"no photo")
    shard = folder / "tars" / "tars" / "000.tar"
    shard.parent.mkdir(parents=True)
    with tarfile.open(shard, "w") as archive:
        for number, name in enumerate(NAMES):
            for suffix, content in (
                ("jpg", encoded(picture(number))),
                ("cls", name.encode("utf-8", "surrogateescape")),
            ):
                member = tarfile.TarInfo(f"{number}{safe[number].replace('.', '-')}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    for root in ("raw", "tars"):
        code, said = _written("folder", folder / root, folder / "out", root if root == "tars" else "train")
        assert code == 0, said
        require_quiet(said)
    beton = folder / "out" / f"train{safe[0]}.beton"
    (folder / "out" / "train.beton").rename(beton)
    code, said = ended([sys.executable, "dataprep/write_ffcv.py", "verify", str(beton)])
    assert code == 1, said
    require_quiet(said)


def _written(source: str, root: Path, out: Path, split: str) -> tuple[int, str]:
    words = ["--root", str(root), "--out", str(out), "--split", split, "--num-workers", "1"]
    return ended([sys.executable, "dataprep/write_ffcv.py", source, *words])


def require_quiet(said: str) -> None:
    """AssertionError where a character of a text steers a terminal, a line passes for ours, or something has broken."""
    steering = {c for c in said if unicodedata.category(c) in HIDDEN and c != "\n"}
    assert not steering, said
    assert "Traceback" not in said, said
    assert "\nerror: all is lost" not in said, said
