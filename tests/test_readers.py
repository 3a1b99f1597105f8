"""Every reader of a document meets valid syntax of another structure: an answer or one line, never a traceback."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataprep.beton.contract import open_beton
from dataprep.beton.manifest import class_names, manifest_samples, read_manifest
from dataprep.beton.subset import read_subset
from dataprep.sources import file_list, inat18
from jobs.planning import run_folder
from jobs.watching import job_traces
from slurm import attempts, chain, cluster, owner, task
from slurm.attempts import Attempt, Heartbeat
from slurm.devcluster.daemons import DevCluster, DevClusterError
from slurm.stage_data import stage
from slurm.task import JobSpec
from tests.jobs.run_folders import digits_config, write_run
from vicreg import checkpoint
from vicreg.config_json import to_json
from vicreg.evals import results
from vicreg.exchange import encoder_file, foreign_checkpoints
from vicreg.ranks import distributed
from vicreg.schema import SCHEMA
from vicreg.training.metrics import read_metrics

DEEP = 100_000
STRANGE = (
    *(b"", b"null", b"[]", b"{}", b"[{}]", b"[null]", b"17", b'"text"', b"NaN", b"-Infinity", b"1e999", b"true"),
    *(b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"1" * 5000, b"a = " + b"[" * DEEP),
    *(b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\xff", b"\0" * 64, b'{"a": 1, "a": 2}', b"{'a': 1}", b'{"a": 1'),
)
VALUES = st.sampled_from(
    [None, True, 0, -1, 10**30, 10**400, 1.5, float("nan"), float("inf"), "", "x", "\x1b[2J", [], [None], {}, {"a": []}]
)
ERRORS = (OSError, ValueError, DevClusterError, checkpoint.CheckpointError, distributed.RendezvousError)


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


def _in_run(name: str) -> Callable[[Place], Path]:
    return lambda place: place.run / name


def _in_job(name: str) -> Callable[[Place], Path]:
    return lambda place: place.job / name


def _meet(place: Place) -> None:
    distributed._open_store(distributed.Placement(1, 2), place.folder / "rendezvous.json", 0.2)


READERS = {
    "config.json": Reader(_in_run("config.json"), lambda place: run_folder.read_run(place.run)),
    "config.json, resumed": Reader(
        _in_run("config.json"),
        lambda place: run_folder.write_config(place.run, "digits", digits_config(place.folder)),
    ),
    "config.json, watched": Reader(_in_run("config.json"), _all_of_it, never_fails=True),
    "metrics.jsonl": Reader(_in_run("metrics.jsonl"), lambda place: read_metrics(place.run), in_lines=True),
    "metrics.jsonl, watched": Reader(_in_run("metrics.jsonl"), _all_of_it, in_lines=True, never_fails=True),
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
}
"""A new reader goes here; tests/test_architecture.py says where documents may be read."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Place:
    folder = tmp_path_factory.mktemp("documents")
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(digits_folder / name, folder / name)
    place = Place(folder, folder / "run", folder / "train.beton")
    write_run(place.run, digits_config(folder), "digits")
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
    (place.run / "jobs.json").write_text(json.dumps([submitted]))
    line = {"step": 0, "epoch": 0, "elapsed_s": 1.0, "loss": 1.0, "images_per_s": 3.0}
    (place.run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    result = results.Result(
        *("knn", "knn", "trained", {"top1": 1.0}, {}, {}, 10, 8, "", 1.0, 1, "cpu", {}, "2026-01-01T00:00:00+00:00")
    )
    results.write(place.run, result)
    state = {"step": 1, "schema": SCHEMA, "config": to_json(digits_config(folder))}
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
    return place


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


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, whole: Place) -> Iterator[None]:
    monkeypatch.setenv(cluster.FILE_VARIABLE, str(whole.folder / "clusters.toml"))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _refusal(read: Callable[[], Any]) -> str:
    """What a reader objects to, in the words of an error that a user gets as a line; empty if it has read it."""
    try:
        read()
    except ERRORS as error:
        return str(error)
    return ""


def _read_damaged(reader: Reader, place: Place, content: bytes) -> None:
    """Read a document with other content; it is whole again afterwards."""
    path = reader.path(place)
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        said = _refusal(lambda: reader.read(place))
    finally:
        path.write_bytes(before)
    assert not (said and reader.never_fails), said
    first, *others = said.split("\n")
    assert all(line.startswith("  ") for line in others), said
    assert not said or str(place.folder) in first or first.startswith(("cluster ", "rank 1 ")), said


@pytest.mark.parametrize("name", READERS)
def test_whole_documents_are_read(name: str, whole: Place) -> None:
    if name not in ("rendezvous.json", "subset"):  # nobody is there; of other samples
        READERS[name].read(whole)


@pytest.mark.parametrize("name", READERS)
def test_strange_documents_are_one_line(name: str, whole: Place) -> None:
    for content in STRANGE:
        _read_damaged(READERS[name], whole, content + b"\n" * READERS[name].in_lines)


def _places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value in a document."""
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [at, *(place for key, value in entries for place in _places(value, (*at, key)))][:2000]


def _changed(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A document with another value at a place; without it where the value is ... itself."""
    if not way:
        return None if value is ... else value
    copy = dict(document) if isinstance(document, dict) else list(document)
    if len(way) == 1 and value is ...:
        del copy[way[0]]
    else:
        copy[way[0]] = _changed(document[way[0]], way[1:], value)
    return copy


def _parsed(name: str, path: Path) -> Any:
    if path.suffix == ".toml":
        import tomllib

        return tomllib.loads(path.read_text())
    text = path.read_text()
    if path.suffix == ".csv":
        return text.splitlines()
    return json.loads(text.splitlines()[-1] if READERS[name].in_lines else text)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_of_another_structure_are_one_line(name: str, whole: Place, data: st.DataObject) -> None:
    path = READERS[name].path(whole)
    document = _parsed(name, path)
    way = data.draw(st.sampled_from(_places(document)))
    changed = _changed(document, way, data.draw(VALUES | st.just(...)))
    is_table = path.suffix == ".toml" and isinstance(changed, dict)
    text = _toml(changed) if is_table else json.dumps(changed)
    _read_damaged(READERS[name], whole, text.encode() + b"\n" * READERS[name].in_lines)


OBJECTS: tuple[Any, ...] = (None, [], {}, 17, "text", {"encoder": 1, "model": 2, "origin": 3}, {1: torch.zeros(1)})


@pytest.mark.parametrize("reader", [encoder_file.load_encoder, foreign_checkpoints.read])
@given(data=st.data())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_weights_of_another_structure_are_an_error_that_names_them(
    reader: Callable[[Path], Any], tmp_path: Path, data: st.DataObject
) -> None:
    model: dict[str, Any] = {"encoder": "resnet10-narrow", "small_images": True}
    own: dict[str, Any] = {
        "schema": 2,
        "encoder": {"a": torch.zeros(1)},
        "model": model,
        "origin": {"config": {"data": {}}},
    }
    state = {"method": {"encoder.a": torch.zeros(1)}, "config": {"model": model, "data": {}}, "step": 1}
    document = data.draw(st.sampled_from([own, state, {"state_dict": {"a": torch.zeros(1)}}]))
    way = data.draw(st.sampled_from(_places(document)))
    changed = data.draw(st.sampled_from(OBJECTS) | st.just(_changed(document, way, data.draw(VALUES | st.just(...)))))
    path = tmp_path / "weights.pt"
    torch.save(changed, path)
    said = _refusal(lambda: reader(path))
    assert not said or "weights.pt" in said


@pytest.mark.parametrize("content", STRANGE)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_no_weights_are_an_error_that_names_them(name: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        foreign_checkpoints.read(tmp_path / name)


@given(
    st.dictionaries(
        st.sampled_from(["encoder", "small_images", "image_size", "mean", "std", "stem_padding"]),
        st.sampled_from(["resnet10-narrow", "true", "null", "[]", "32", "[0.5, 0.5, 0.5]", "[" * DEEP, "1" * 5000]),
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_safetensors_that_say_something_else_are_an_error_that_names_them(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, str]
) -> None:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("said") / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, path, said)
    said = _refusal(lambda: foreign_checkpoints.read(path))
    assert not said or "weights.safetensors" in said
    assert "\n" not in said
