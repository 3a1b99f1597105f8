"""Each step stands once in metrics.jsonl, whatever happened before; progress is readable without a terminal."""

from __future__ import annotations

import io
import json
import re
import resource
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vicreg import run_files
from vicreg.methods import vicreg
from vicreg.run_files import METRICS_FILE, cut_behind, read_lines, read_metrics
from vicreg.training import metrics as metrics_module
from vicreg.training.metrics import Metrics, Sink

TERMS = {"loss": 30.0, "invariance": 0.1, "variance": 0.9, "covariance": 2.0}
TIMING = {"images_per_s": 1234.0, "data_wait_share": 0.02}


def _metrics(run: Path, first_step: int, project: str = "") -> tuple[Metrics, io.StringIO]:
    text = io.StringIO()
    return Metrics(run, first_step, 20, 5, Console(file=text, width=200), vicreg.TERMS, project), text


def test_a_resumed_run_replaces_the_steps_it_does_again(tmp_path: Path) -> None:
    metrics, _ = _metrics(tmp_path, 0)
    for step in range(6):
        metrics.log(step, 0.1, TERMS, TIMING)
    metrics.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 6, "unfini')
    metrics, _ = _metrics(tmp_path, 4)
    metrics.log(4, 0.2, TERMS, TIMING)
    metrics.close()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["epoch"] for line in lines] == [0, 0, 0, 0, 0]
    assert lines[-1]["learning_rate"] == 0.2
    assert lines[-1]["elapsed_s"] >= lines[-2]["elapsed_s"]
    assert list((tmp_path / "tensorboard").iterdir())


def test_plain_lines_say_where_the_run_is(tmp_path: Path) -> None:
    metrics, text = _metrics(tmp_path, 0)
    metrics.log(6, 0.1, TERMS, TIMING)
    metrics.close()
    line = text.getvalue()
    for part in (
        "epoch 2/4",
        "step 7/20",
        "loss 30.000",
        "inv 0.1000",
        "var 0.9000",
        "cov 2.000",
        "1,234 img/s",
        "wait 2%",
    ):
        assert part in line
    assert "ETA 0:00:" in line


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_a_terminal_of_any_width_sees_bar_and_time_left_on_one_line(tmp_path: Path, columns: int) -> None:
    text = io.StringIO()
    console = Console(file=text, width=columns, force_terminal=True, legacy_windows=False)
    metrics = Metrics(tmp_path, 0, 1_000_000, 5000, console, vicreg.TERMS)
    timing = TIMING | {"images_per_s": 123_456.0, "step_ms_p50": 310.0, "step_ms_p95": 420.0, "mfu": 0.41}
    metrics.log(600_000, 0.1, TERMS | {"online_top1": 61.5}, timing)
    metrics.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue()).replace("\r", "\n")
    shown = [line.rstrip() for line in plain.split("\n") if "epoch 121/200" in line]
    assert shown
    assert "…" not in plain
    for line in shown:
        assert len(line) <= columns
        assert line.startswith("━" * 7)  # of 12, at 60 %
        assert " 60% " in line
        assert "ETA 0:00:" in line
        assert ("MFU 41%" in line) == (columns == 200)


def test_weights_and_biases_get_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []
    session = types.SimpleNamespace(log=lambda numbers, step: seen.append((step, numbers["loss"])))
    fake = types.SimpleNamespace(init=lambda **settings: session)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    metrics, _ = _metrics(tmp_path, 0, project="p")
    metrics.log(0, 0.1, TERMS, TIMING)
    metrics.close()
    assert seen == [(0, 30.0)]


def test_a_missing_wandb_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[wandb\]'"):
        _metrics(tmp_path, 0, project="p")


def test_lines_are_json(tmp_path: Path) -> None:
    metrics, _ = _metrics(tmp_path, 0)
    metrics.log(0, 0.1, TERMS, TIMING)
    metrics.close()
    assert json.loads((tmp_path / METRICS_FILE).read_text())["loss"] == 30.0


@pytest.mark.parametrize("block_bytes", [7, 1 << 20])
@pytest.mark.parametrize("tail", [b"", bytes(300), b'{"step": 5, "epo', b'\xff\xfe\n"text"\n[]\n', b'{"step": 9}\n'])
def test_whatever_a_power_cut_left_at_the_end_is_cut_off(
    tmp_path: Path, tail: bytes, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_files, "BLOCK_BYTES", block_bytes)
    lines = [json.dumps({"step": step, "epoch": 0, "elapsed_s": step / 2}).encode() + b"\n" for step in range(5)]
    (tmp_path / METRICS_FILE).write_bytes(b"".join(lines) + tail)
    assert cut_behind(tmp_path, 4) == 1.5
    assert (tmp_path / METRICS_FILE).read_bytes() == b"".join(lines[:4])
    assert cut_behind(tmp_path, 0) == 0.0
    assert (tmp_path / METRICS_FILE).read_bytes() == b""


def test_lines_that_cannot_be_read_in_the_middle_stay_and_are_passed_over(tmp_path: Path) -> None:
    line = b'{"step": %d, "epoch": 0}\n'
    content = line % 1 + b"\x00\x00\x00\nnull\n[1]\n" + b"[" * 100_000 + b"\n" + line % 2
    (tmp_path / METRICS_FILE).write_bytes(content)
    assert cut_behind(tmp_path, 3) == 0.0
    assert (tmp_path / METRICS_FILE).read_bytes() == content
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2]
    assert [entry is None for entry in read_lines(tmp_path)] == [False, True, True, True, True, False]


def test_a_full_disk_names_the_file_and_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "_tensorboard", lambda run, first_step: [])
    metrics, _ = _metrics(tmp_path, 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
    line = r"cannot write .*metrics\.jsonl: File too large; .* make room on the disk of"
    try:
        with pytest.raises(OSError, match=line):
            metrics.log(0, 0.1, TERMS, TIMING)
        metrics.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_tensorboard_has_every_step_when_the_run_ends(tmp_path: Path) -> None:
    metrics, _ = _metrics(tmp_path, 0)
    for step in range(3):
        metrics.log(step, 0.1 + step, TERMS, TIMING)
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, round(event.value, 5)) for event in events.Scalars("learning_rate")] == [
        (0, 0.1),
        (1, 1.1),
        (2, 2.1),
    ]


def test_a_side_file_that_fails_is_told_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics, _ = _metrics(tmp_path, 0)

    def fail(numbers: dict[str, float], step: int) -> None:
        raise OSError("no space left")

    metrics._sinks.insert(0, Sink("the side file", fail, lambda: None))
    for step in range(2):
        metrics.log(step, 0.1, TERMS, TIMING)
    metrics.close()
    assert len(read_metrics(tmp_path)) == 2
    assert caplog.messages == ["nothing more is written to the side file: no space left"]
