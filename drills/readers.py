"""Every reader of a document, a whole document for each, and strange ones: what drills and tests let meet."""

from __future__ import annotations

import json
import logging
import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from dataprep.beton.contract import open_beton
from dataprep.beton.manifest import class_names, manifest_samples, read_manifest
from dataprep.beton.subset import read_subset
from dataprep.sources import audio, captions, coco_detection, file_list, inat18
from dataprep.writing.raw_objects import store_objects
from drills.faults import refusal
from jobs.planning import recipes, run_folder, sweeps
from jobs.serving.curves import CurveFile
from jobs.serving.overview import Known, differing
from jobs.watching import job_traces
from slurm import attempts, chain, cluster, owner, task
from slurm.attempts import Attempt, Heartbeat
from slurm.devcluster.daemons import DevCluster, DevClusterError
from slurm.stage_data import stage
from slurm.task import JobSpec
from vicreg import checkpoint
from vicreg.config import PretrainConfig
from vicreg.config_json import to_json
from vicreg.evals import results
from vicreg.exchange.encoder_file import save_encoder, untrained_encoder
from vicreg.ranks import rendezvous
from vicreg.ranks.distributed import Placement
from vicreg.ranks.rendezvous import RendezvousError
from vicreg.run_files import read_metrics
from vicreg.schema import SCHEMA
from vicreg.stop_rule import early_end_of

DEEP = 100_000
STRANGE: tuple[bytes, ...] = (
    *(b"", b"null", b"[]", b"{}", b"[{}]", b"[null]", b"17", b'"text"', b"NaN", b"-Infinity", b"1e999", b"true"),
    *(b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"1" * 5000, b"a = " + b"[" * DEEP),
    *(b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\xff", b"\0" * 64, b'{"a": 1, "a": 2}', b"{'a': 1}", b'{"a": 1'),
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    10**30,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x1b[2J",
    [],
    [None],
    {},
    {"a": []},
)
"""What a place in a document may hold instead."""
ERRORS = (OSError, ValueError, DevClusterError, checkpoint.CheckpointError, RendezvousError)


@dataclass
class Place:
    """A folder with a whole document of each kind, which a test then damages."""

    folder: Path
    run: Path
    beton: Path

    @property
    def job(self) -> Path:
        return chain.job_folder(self.run, "pretrain")


@dataclass(frozen=True)
class Reader:
    """One document, and what reads it."""

    path: Callable[[Place], Path]
    read: Callable[[Place], Any]
    in_lines: bool = False
    never_fails: bool = False
    """It makes do with what it can read."""


def _all_of_it(place: Place) -> None:
    for job in job_traces.find_jobs(place.run):
        job_traces.read_progress(place.run, job.name)
        assert job.max_failures >= 0 or job.waits_for
    owner.holder(place.job)


def _on_board(place: Place) -> None:
    known, curves = Known(place.run, "run"), CurveFile(place.run)
    known.read_settings()
    known.read_measures(math.inf)
    curves.read_on()
    shown = [differing({"a": known, "b": Known(place.folder, "b")}), known.online.best, known.measured]
    shown += [curves.fields(), curves.steps_per_epoch(), *(curves.curve(name) for name in curves.fields())]
    json.dumps(shown, allow_nan=False)


def _in_run(name: str) -> Callable[[Place], Path]:
    return lambda place: place.run / name


def _in_job(name: str) -> Callable[[Place], Path]:
    return lambda place: place.job / name


def _meet(place: Place) -> None:
    rendezvous._open_store(Placement(1, 2), place.folder / "rendezvous.json", 0.2)


READERS = {
    "config.json": Reader(_in_run("config.json"), lambda place: run_folder.read_run(place.run)),
    "config.json, resumed": Reader(
        _in_run("config.json"),
        lambda place: run_folder.write_config(place.run, "digits", _config(place.folder)),
    ),
    "config.json, watched": Reader(_in_run("config.json"), _all_of_it, never_fails=True),
    "metrics.jsonl": Reader(_in_run("metrics.jsonl"), lambda place: read_metrics(place.run), in_lines=True),
    "metrics.jsonl, watched": Reader(_in_run("metrics.jsonl"), _all_of_it, in_lines=True, never_fails=True),
    "metrics.jsonl, on the board": Reader(_in_run("metrics.jsonl"), _on_board, in_lines=True, never_fails=True),
    "config.json, on the board": Reader(_in_run("config.json"), _on_board, never_fails=True),
    "result.json, on the board": Reader(_in_run("evals/knn/result.json"), _on_board, never_fails=True),
    "ended_early.json": Reader(_in_run("ended_early.json"), lambda place: early_end_of(place.run), never_fails=True),
    "sweep.json": Reader(
        lambda place: place.folder / "sweep.json", lambda place: sweeps.read_sweep(place.folder).combinations()
    ),
    "jobs.json": Reader(_in_run("jobs.json"), lambda place: chain.read_jobs(place.run)),
    "jobs.json, watched": Reader(_in_run("jobs.json"), _all_of_it, never_fails=True),
    "job.json": Reader(_in_job("job.json"), lambda place: JobSpec.read(place.job)),
    "job.json, watched": Reader(_in_job("job.json"), _all_of_it, never_fails=True),
    "attempts.jsonl": Reader(_in_job("attempts.jsonl"), _all_of_it, in_lines=True, never_fails=True),
    "heartbeat.json": Reader(_in_job("heartbeat.json"), _all_of_it, never_fails=True),
    "claim": Reader(_in_job(".owner_1"), _all_of_it, never_fails=True),
    "note of a rank": Reader(_in_job("error_0.json"), lambda place: task.read_notes(place.job, "error")),
    "rendezvous.json": Reader(lambda place: place.folder / "rendezvous.json", _meet),
    "result.json": Reader(
        _in_run("evals/knn/result.json"), lambda place: results.read(place.run, "knn", "trained"), never_fails=True
    ),
    "checkpoint's manifest": Reader(
        _in_run("checkpoints/step_00000001/manifest.json"),
        lambda place: checkpoint.load(place.run / "checkpoints" / "step_00000001"),
    ),
    "clusters.toml": Reader(lambda place: place.folder / "clusters.toml", lambda _: cluster.load("mine")),
    "devcluster.json": Reader(
        lambda place: place.folder / "devcluster" / "devcluster.json",
        lambda place: DevCluster.open(place.folder / "devcluster"),
    ),
    "record of a staged copy": Reader(
        lambda place: next(place.folder.glob("node/*/*/.train.beton.staged")),
        lambda place: stage(place.beton, place.folder / "node"),
        never_fails=True,
    ),
    "manifest": Reader(lambda place: place.beton.with_name("train.beton.json"), lambda place: open_beton(place.beton)),
    "manifest, read": Reader(
        lambda place: place.beton.with_name("train.beton.json"),
        lambda place: (read_manifest(place.beton), class_names(place.beton), list(manifest_samples(place.beton))),
    ),
    "subset": Reader(
        lambda place: place.beton.with_name("train.few.json"), lambda place: read_subset(place.beton, "few")
    ),
    "list of files": Reader(
        lambda place: place.folder / "photos.csv", lambda place: file_list.open_splits(place.folder / "photos.csv")
    ),
    "iNaturalist's list": Reader(
        lambda place: place.folder / "val2018.json", lambda place: inat18._read_list(place.folder / "val2018.json")
    ),
    "COCO's list": Reader(
        lambda place: place.folder / "annotations" / "instances_val2017.json", lambda place: _open_coco(place.folder)
    ),
    "COCO's captions": Reader(
        lambda place: place.folder / "coco" / "annotations" / "captions_val2014.json",
        lambda place: _open_captions(place.folder / "coco"),
    ),
    "splits of COCO's captions": Reader(
        lambda place: place.folder / "coco" / captions.SPLIT_FILE, lambda place: _open_captions(place.folder / "coco")
    ),
    "table of captions": Reader(
        lambda place: place.folder / "flickr8k" / "captions.csv",
        lambda place: _open_captions(place.folder / "flickr8k"),
    ),
    "ESC-50's list": Reader(
        lambda place: place.folder / "esc50" / audio.ESC50_LIST,
        lambda place: audio.open_splits(place.folder / "esc50", None, audio.Layout(16_000, 5.0)),
    ),
}
"""A new reader goes here; tests/test_architecture.py says where documents may be read."""


def _open_coco(folder: Path) -> None:
    source = coco_detection.open_split(folder, "val")
    assert source.objects is not None
    store_objects(source.objects(0), 8, 8, source.label_length)


def _open_captions(folder: Path) -> None:
    for source in captions.open_splits(folder, None, restval=True, num_val=0, seed=0):
        assert source.captions is not None
        source.captions(0)


def _config(folder: Path) -> PretrainConfig:
    config = recipes.recipe("digits").pretrain
    return replace(config, data=replace(config.data, train=str(folder / "train.beton"), image_size=16, eval_resize=16))


def write_documents(folder: Path) -> Place:
    """A whole document of each kind, in a folder that holds train.beton and its manifest."""
    place = Place(folder, folder / "run", folder / "train.beton")
    config = _config(folder)
    place.run.mkdir()
    (place.run / "config.json").write_text(
        json.dumps({"schema": SCHEMA, "recipe": "digits", "pretrain": to_json(config)})
    )
    save_encoder(place.run / "encoder.pt", untrained_encoder(config.model, 7), config.model, {})
    job = place.job
    JobSpec("pretrain", "a.b", {}).write(job)
    attempt = Attempt("pid 1", 0, ("n1",), 1.0)
    attempts.begin(job, attempt)
    attempts.end(job, attempt, attempts.FAILED, "why", progress=3)
    documents: dict[str, Any] = {
        "heartbeat.json": asdict(Heartbeat(3, 10, 1.0)),
        ".owner_1": {"name": "process 1", "host": "elsewhere", "boot": "", "pid": 1, "born": 1, "since": 1.0},
        "error_0.json": {"message": "why", "node": "n1", "time": 1.0},
    }
    for name, content in documents.items():
        (job / name).write_text(json.dumps(content))
    submitted = asdict(chain.Submitted("pretrain", "1", "mine", "afterok:1", 1.0))
    submitted.pop("is_new")
    (place.run / "ended_early.json").write_text(json.dumps({"step": 1, "reason": "it was enough"}))
    options = sweeps.SweepOptions(2, ("train.epochs=1,2",))
    sweeps.write_sweep(folder, sweeps.sweep_of(options, folder, to_json(config), ["--seeds", "2"])[0])
    (place.run / "jobs.json").write_text(json.dumps([submitted]))
    line = {"step": 0, "epoch": 0, "elapsed_s": 1.0, "loss": 1.0, "images_per_s": 3.0}
    (place.run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    result = results.Result(
        *("knn", "knn", "trained", {"top1": 1.0}, {}, {}, 10, 8, "", 1.0, 1, "cpu", {}, "2026-01-01T00:00:00+00:00")
    )
    results.write(place.run, result)
    state = {"step": 1, "schema": SCHEMA, "config": to_json(config)}
    checkpoint.save(place.run / "checkpoints", 1, state, 1)
    (folder / "rendezvous.json").write_text(json.dumps({"hosts": ["127.0.0.1"], "port": 1}))
    profile = {"gpus_per_node": 2, "mem_per_gpu_gb": 1.5, "setup": ["a"], "environment": {"A": "b"}, "time": "1:00:00"}
    (folder / "clusters.toml").write_text(_toml({"mine": profile}))
    (folder / "devcluster").mkdir(mode=0o700)
    DevCluster(folder / "devcluster", 1, 0)._remember()
    stage(place.beton, folder / "node")
    document = {"schema": 1, "num_samples": open_beton(place.beton).num_samples, "indices": [0, 1], "samples_crc32": 1}
    (folder / "train.few.json").write_text(json.dumps(document))
    (folder / "a.jpg").touch()
    (folder / "photos.csv").write_text("path,label\na.jpg,ant\n")
    images = {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "category_id": 1}]}
    (folder / "val2018.json").write_text(json.dumps(images | {"categories": [{"id": 1, "name": "ant"}]}))
    one = {"image_id": 1, "category_id": 1, "bbox": [1.0, 1.0, 4.0, 4.0], "area": 8.0, "iscrowd": 0}
    polygon, runs = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]], {"size": [8, 8], "counts": [9, 2, 53]}
    instances = {
        "images": [{"id": 1, "file_name": "a", "height": 8, "width": 8}],
        "annotations": [one | {"segmentation": polygon}, one | {"segmentation": runs}],
        "categories": [{"id": 1, "name": "ant"}],
    }
    (folder / "val2017").mkdir()
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(instances))
    _write_captions_and_sound(folder)
    return place


def _write_captions_and_sound(folder: Path) -> None:
    coco, table, sound = (folder / name for name in ("coco", "flickr8k", "esc50"))
    (coco / "annotations").mkdir(parents=True)
    splits = [
        {"filepath": "val2014", "filename": f"{i}", "cocoid": i, "split": s}
        for i, s in enumerate(("train", "val", "test"))
    ]
    (coco / captions.SPLIT_FILE).write_text(json.dumps({"images": splits}))
    said = {"images": [{"id": i} for i in range(3)], "annotations": [{"image_id": i, "caption": "a"} for i in range(3)]}
    for part in ("train", "val"):
        (coco / "annotations" / f"captions_{part}2014.json").write_text(json.dumps(said))
    (table / "Images").mkdir(parents=True)
    (table / "Images" / "a.jpg").touch()
    (table / "captions.csv").write_text("image,caption\na.jpg,an ant\n")
    (sound / "audio").mkdir(parents=True)
    (sound / "audio" / "a.wav").touch()
    (sound / "meta").mkdir()
    (sound / audio.ESC50_LIST).write_text("filename,fold,target,category,src_file\na.wav,1,0,ant,1\n")


def document(reader: Reader, path: Path, value: Any) -> bytes:
    """The text of a document with this value."""
    if path.suffix == ".csv" and isinstance(value, list):
        return "\n".join(map(str, value)).encode()
    is_table = path.suffix == ".toml" and isinstance(value, dict)
    return (_toml(value) if is_table else json.dumps(value)).encode() + b"\n" * reader.in_lines


def _toml(tables: dict[str, Any]) -> str:
    """Enough of TOML for a table of values."""
    lines = []
    for name, table in tables.items():
        lines.append(f"{json.dumps(name)} = {_inline(table)}")
    return "\n".join(lines)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return {"NaN": "nan", "Infinity": "inf", "null": '"null"'}.get(json.dumps(value), json.dumps(value))


def read_damaged(reader: Reader, place: Place, content: bytes) -> None:
    """Read a document with other content; it is whole again afterwards."""
    path = reader.path(place)
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        said = refusal(lambda: reader.read(place), ERRORS)
    finally:
        path.write_bytes(before)
    assert not (said and reader.never_fails), said
    first, *others = said.split("\n")
    assert all(line.startswith("  ") for line in others), said
    assert not said or str(place.folder) in first or first.startswith(("cluster ", "rank 1 ")), said


@contextmanager
def quick(place: Place) -> Iterator[None]:
    """Nobody waits, nothing is logged, and the profiles are those of the place."""
    logging.disable(logging.CRITICAL)
    try:
        with (
            mock.patch.dict(os.environ, {cluster.FILE_VARIABLE: str(place.folder / "clusters.toml")}),
            mock.patch.object(time, "sleep"),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value in a document."""
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [at, *(place for key, value in entries for place in places(value, (*at, key)))][:2000]


def changed(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A document with another value at a place; without it where the value is ... itself."""
    if not way:
        return None if value is ... else value
    copy = dict(document) if isinstance(document, dict) else list(document)
    if len(way) == 1 and value is ...:
        del copy[way[0]]
    else:
        copy[way[0]] = changed(document[way[0]], way[1:], value)
    return copy


def parsed(reader: Reader, path: Path) -> Any:
    """The value of a whole document; of one in lines, that of the last."""
    if path.suffix == ".toml":
        return tomllib.loads(path.read_text())
    text = path.read_text()
    if path.suffix == ".csv":
        return text.splitlines()
    return json.loads(text.splitlines()[-1] if reader.in_lines else text)
