"""Checkpoints are whole or not there, pruned, checked, and the newest valid one wins."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vicreg import checkpoint
from vicreg.checkpoint import CheckpointError


def _state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": {"a": torch.full((4,), float(step))}, "scaler": {}, "config": {"x": [1, 2.5]}}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 7, _state(7), keep=2)
    assert path.name == "step_00000007"
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["weights"]["a"], torch.full((4,), 7.0))
    assert loaded["config"] == {"x": [1, 2.5]}


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for step in range(5):
        checkpoint.save(tmp_path, step, _state(step), keep=2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step_00000003", "step_00000004"]


@pytest.mark.parametrize("damage", ["flip", "cut", "no state"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, 1, _state(1), keep=3)
    newest = checkpoint.save(tmp_path, 2, _state(2), keep=3)
    content = bytearray((newest / "state.pt").read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        (newest / "state.pt").write_bytes(content)
    elif damage == "cut":
        (newest / "state.pt").write_bytes(content[:-10])
    else:
        (newest / "state.pt").unlink()
    with pytest.raises(CheckpointError, match="step_00000002"):
        checkpoint.load(newest)
    with caplog.at_level(logging.WARNING):
        state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert "step_00000002" in caplog.text


def test_the_good_are_not_pruned_for_the_damaged(tmp_path: Path) -> None:
    """All that was kept is damaged: the run begins anew, and its checkpoints, of lower steps, stay."""
    for step in (8, 9):
        path = checkpoint.save(tmp_path, step, _state(step), keep=2)
        (path / "state.pt").write_bytes(b"")
    state, damaged = checkpoint.find_newest(tmp_path)
    assert state is None
    assert [path.name for path in damaged] == ["step_00000009", "step_00000008"]
    checkpoint.save(tmp_path, 1, _state(1), keep=2)  # even while they lie there
    assert (tmp_path / "step_00000001").is_dir()
    checkpoint.set_aside(damaged)
    for step in (2, 3):
        checkpoint.save(tmp_path, step, _state(step), keep=2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    assert sorted(path.name for path in tmp_path.glob("damaged_*")) == [f"damaged_step_0000000{n}" for n in (8, 9)]
    again = checkpoint.save(tmp_path, 9, _state(9), keep=2)
    (again / "manifest.json").unlink()
    checkpoint.set_aside([again])
    assert checkpoint.load_newest(tmp_path) is not None


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "missing") is None


def _save_for_ever(folder: Path) -> None:
    for step in range(10_000):
        checkpoint.save(folder, step, {"step": step, "weights": torch.full((50_000,), float(step))}, keep=2)


def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    for number, delay_s in enumerate((0.05, 0.11, 0.17)):
        folder = tmp_path / str(number)
        process = multiprocessing.get_context("spawn").Process(target=_save_for_ever, args=(folder,))
        process.start()
        while not checkpoint.list_checkpoints(folder):
            time.sleep(0.01)
        time.sleep(delay_s)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        state = checkpoint.load_newest(folder)
        assert state is not None
        assert (state["weights"] == state["step"]).all()
        checkpoint.save(folder, 99_999, _state(99_999), keep=2)
        assert not list(folder.glob(".step_*"))  # what the kills left behind is cleared away


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("true",)

    path = checkpoint.save(tmp_path, 1, {"step": 1, "trap": Trap()}, keep=1)
    with pytest.raises(Exception, match=r"weights_only|Weights only|Unsupported"):
        checkpoint.load(path)


MANIFESTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "null": lambda _: b"null",
    "list": lambda _: b"[1]",
    "no UTF-8": lambda content: b"\xff\xfe{" + content,
    "deep": lambda _: b"[" * 100_000,
    "zeros": lambda content: bytes(len(content)),
    "words": lambda _: b'{"size": "x", "sha256": 1}',
    "infinite": lambda _: b'{"size": 1e999, "sha256": ""}',
}


@pytest.mark.parametrize("how", [*MANIFESTS, "other size"])
def test_a_damaged_manifest_is_made_again_where_the_state_is_whole(tmp_path: Path, how: str) -> None:
    state = {"step": 3, "weights": torch.arange(100.0)}
    path = checkpoint.save(tmp_path, 3, state, keep=2)
    manifest = path / "manifest.json"
    before = manifest.read_bytes()
    if how == "other size":  # it can be read, and so it holds
        manifest.write_text(json.dumps(json.loads(before) | {"size": 5}))
        with pytest.raises(CheckpointError, match="written were 5"):
            checkpoint.load(path)
        return
    manifest.write_bytes(MANIFESTS[how](before))
    assert torch.equal(checkpoint.load(path)["weights"], state["weights"])
    assert manifest.read_bytes() == before


def test_without_a_manifest_no_damage_of_the_state_is_overlooked(tmp_path: Path) -> None:
    """Every part of torch's file has a CRC-32; the few bytes outside of them are no value."""
    state = {"step": 3, "weights": torch.arange(30.0), "more": [1, 2.5, "a"]}
    path = checkpoint.save(tmp_path, 3, state, keep=2)
    whole = (path / "state.pt").read_bytes()
    found, places = 0, range(0, len(whole), 31)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 16
        (path / "state.pt").write_bytes(damaged)
        (path / "manifest.json").write_text("null")
        try:
            loaded = checkpoint.load(path)
        except CheckpointError:
            found += 1
        else:
            assert loaded["step"] == 3
            assert torch.equal(loaded["weights"], state["weights"])
            assert loaded["more"] == state["more"]
    assert found > len(places) / 2


def test_a_state_of_another_step_has_no_manifest_made_for_it(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, {"step": 4}, keep=2)
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="is that of step 4"):
        checkpoint.load(path)
