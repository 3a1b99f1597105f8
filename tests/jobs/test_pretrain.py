"""The pretraining command: it runs, stops, goes on to the same bits, and says what is wrong."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from border.private_folder import require_private
from jobs import pretrain
from jobs.execution import joined_ranks
from jobs.execution import pretrain as work
from jobs.options.pretrain import parse
from jobs.planning.run_folder import write_config
from jobs.watching.job_states import collect
from slurm.requeue import StopFlag
from slurm.task import Task
from tests.jobs.run_folders import digits_config
from vicreg import checkpoint
from vicreg.run_files import TIMING, read_metrics
from vicreg.training.train import Outcome

ROOT = Path(__file__).parents[2]
STEPS = 15  # 3 epochs of 5 steps


def _command(digits: Path, run: Path, *more: str) -> list[str]:
    options = {
        "--recipe": "digits",
        "--run": str(run),
        "--data.train": str(digits / "train.beton"),
        "--data.val": str(digits / "val.beton"),
        "--data.image-size": "16",
        "--data.eval-resize": "16",
        "--model.expander": "64-64",
        "--train.epochs": "3",
        "--train.global-batch": "256",
        "--train.log-every-steps": "1",
        "--train.checkpoint-every-steps": "4",
    }
    return [sys.executable, "jobs/pretrain.py", *[part for pair in options.items() for part in pair], *more]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _await_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the run has logged `step`."""
    while process.poll() is None:
        lines = read_metrics(run)
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.005)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.load(checkpoint.list_checkpoints(run / "checkpoints")[-1])
    assert newest["step"] == STEPS
    weights: dict[str, torch.Tensor] = newest["method"]
    return weights


def _numbers(run: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name not in TIMING} for line in read_metrics(run)]


def _assert_same_bits(run: Path, reference: Path) -> None:
    weights, expected = _weights(run), _weights(reference)
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name
    assert _numbers(run) == _numbers(reference)
    assert [line["step"] for line in read_metrics(run)] == list(range(STEPS))


@pytest.fixture(scope="module")
def whole(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to, by one rank."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = _run(_command(digits_folder, run))
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
    assert "epoch 3/3  step 15/15" in done.stdout
    return run


def test_runs_and_leaves_a_complete_folder(digits_folder: Path, whole: Path) -> None:
    config = json.loads((whole / "config.json").read_text())
    assert config["recipe"] == "digits"
    assert config["pretrain"]["train"]["epochs"] == 3
    assert set(torch.load(whole / "encoder.pt", weights_only=True)) == {"schema", "encoder", "model", "origin"}
    losses = [line["loss"] for line in read_metrics(whole)]
    assert losses[-1] < losses[0]
    again = _run(_command(digits_folder, whole))
    assert again.returncode == 0
    assert "is finished" in again.stdout


def test_another_configuration_is_refused_with_the_fields(digits_folder: Path, whole: Path) -> None:
    done = _run(_command(digits_folder, whole, "--train.epochs", "4", "--train.keep-checkpoints", "3"))
    assert done.returncode == 1
    assert "train.epochs: 3 -> 4" in done.stderr
    assert "keep_checkpoints" not in done.stderr


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_stop_signal_saves_and_the_same_command_goes_on_to_the_same_bits(
    digits_folder: Path, tmp_path: Path, whole: Path, ranks: str
) -> None:
    if ranks != "1":
        whole = tmp_path / "whole"
        assert _run(_command(digits_folder, whole, "--gpus", ranks)).returncode == 0
    command = _command(digits_folder, tmp_path / "run", "--gpus", ranks)
    process = _start(command)
    _await_step(tmp_path / "run", 5, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    saved = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert 5 < saved["step"] < STEPS
    assert read_metrics(tmp_path / "run")[-1]["step"] == saved["step"] - 1  # no step is lost
    alone = [sys.executable, "jobs/pretrain.py", "--run", str(tmp_path / "run"), "--gpus", ranks]
    done = _run(alone if ranks == "1" else command)
    assert done.returncode == 0, done.stderr
    assert f"resuming {tmp_path / 'run'} at step {saved['step']}" in re.sub(r"\s+", " ", done.stdout)
    _assert_same_bits(tmp_path / "run", whole)


@pytest.mark.slow
def test_kills_at_random_steps_end_in_the_same_bits(digits_folder: Path, tmp_path: Path) -> None:
    assert _run(_command(digits_folder, tmp_path / "whole", "--gpus", "2")).returncode == 0
    command = _command(digits_folder, tmp_path / "run", "--gpus", "2")
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"kill points from seed {seed}")
    for step in sorted(random.Random(seed).sample(range(STEPS - 2), 3)):
        process = _start(command)
        _await_step(tmp_path / "run", step, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
    done = _run(command)
    assert done.returncode == 0, done.stderr
    _assert_same_bits(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_going_on_with_other_ranks_follows_the_same_path(digits_folder: Path, tmp_path: Path, whole: Path) -> None:
    """The samples and views are the same; sums over ranks differ in the last bits only, which later steps enlarge."""
    process = _start(_command(digits_folder, tmp_path / "run"))
    _await_step(tmp_path / "run", 4, process)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    saved = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    done = _run(_command(digits_folder, tmp_path / "run", "--gpus", "2"))
    assert done.returncode == 0, done.stderr
    for mine, theirs in zip(_numbers(tmp_path / "run"), _numbers(whole), strict=True):
        just_resumed = mine["step"] <= saved["step"]
        # Rounding alone moves a gradient of few samples by a thousandth (float32).
        assert mine.pop("gradient_norm") == pytest.approx(
            theirs.pop("gradient_norm"), rel=0.01 if just_resumed else 0.1
        )
        assert mine == pytest.approx(theirs, rel=1e-5 if just_resumed else 0.05)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_passed_over(digits_folder: Path, tmp_path: Path) -> None:
    command = _command(digits_folder, tmp_path / "run")
    assert _run(command).returncode == 0
    before = _weights(tmp_path / "run")
    newest = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1] / "state.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255
    newest.write_bytes(content)
    (tmp_path / "run" / "encoder.pt").unlink()
    done = _run(command)
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stdout
    for name, tensor in _weights(tmp_path / "run").items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.train", "missing/train.beton"], "missing/train.beton: no such file; write it with"),
        (["--train.global-batch", "255", "--gpus", "2"], "global_batch is 255, allowed: a multiple of the 2 ranks"),
        (
            ["--train.global-batch", "2048"],
            "train.beton has 1,437 images; allowed: 2 to 1437, and enough for several steps an epoch: ",
        ),
        (["--train.precision", "fp16"], "precision is 'fp16', allowed: auto, float32, float64 on a CPU"),
        (["--model.encoder", "resnet51"], "encoder is 'resnet51', allowed:"),
        (
            ["--recipe", "digit"],
            "recipe is 'digit' (did you mean digits?), allowed: auto (chosen for your images), imagenet-1000ep, ",
        ),
        (["--method.name", "barlow"], "method.name is 'barlow', allowed: barlow_twins, "),
        (["--views.1.count", "2"], "views is '3 of an image', allowed: 2 for vicreg"),
    ],
)
def test_wrong_input_says_what_is_allowed(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        pretrain.main(_command(digits_folder, tmp_path / "run", *more)[2:])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("epochs", [("2", "3"), pytest.param(("2", "2"), marks=pytest.mark.slow)])
def test_of_two_commands_at_a_time_one_is_refused_and_nothing_is_lost(
    digits_folder: Path, tmp_path: Path, epochs: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    pipe = subprocess.PIPE
    commands = [_command(digits_folder, run, "--train.epochs", number) for number in epochs]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) for command in commands]
    try:
        said = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert sorted(process.returncode for process in both) == [0, 1], said
    refusal = next(text[1] for process, text in zip(both, said, strict=True) if process.returncode)
    in_use = r"error: \S+/jobs/pretrain is in use by process \d+ on .*; wait until it is over, or stop"
    assert re.search(f"{in_use}|error: .* was started with another configuration", refusal)
    assert "Traceback" not in refusal
    kept = json.loads((run / "config.json").read_text())["pretrain"]["train"]["epochs"]
    assert str(kept) == next(number for process, number in zip(both, epochs, strict=True) if not process.returncode)
    assert [line["step"] for line in read_metrics(run)] == list(range(5 * kept))
    assert [job.state for job in collect(run)] == ["finished"]


def test_help_shows_every_group_with_units_and_defaults() -> None:
    done = _run([sys.executable, "jobs/pretrain.py", "--recipe", "imagenet-100ep", "--help"])
    assert done.returncode == 0
    text = re.sub(r"[│\s]+", " ", done.stdout)
    groups = [f"{name} options" for name in ("data", "method", "views.0", "model", "optimizer", "train")]
    for part in (*groups, "--method.invariance-weight", "--optimizer.base-lr", "(default: 0.3)", "px"):
        assert part in text


def test_a_run_that_is_there_brings_its_own_configuration(digits_folder: Path, tmp_path: Path) -> None:
    config = digits_config(digits_folder)
    write_config(tmp_path / "run", "digits", config)
    command = parse(["--run", str(tmp_path / "run")])
    assert (command.recipe, command.config) == ("digits", config)
    longer = parse(["--run", str(tmp_path / "run"), "--train.epochs", "7"]).config
    assert longer == replace(config, train=replace(config.train, epochs=7))
    assert parse(["--run", str(tmp_path / "new")]).recipe == "imagenet-1000ep"
    assert parse(["--run", str(tmp_path / "run"), "--recipe", "cifar10"]).recipe == "cifar10"


@pytest.mark.slow
def test_another_method_brings_its_own_options(digits_folder: Path, tmp_path: Path) -> None:
    method = ("--method.name", "barlow_twins", "--method.redundancy-weight", "0.01", "--model.expander-bias", "none")
    done = _run([sys.executable, "jobs/pretrain.py", "--recipe", "digits", *method, "--help"])
    assert "--method.redundancy-weight" in done.stdout
    assert "--method.invariance-weight" not in done.stdout
    refused = _run(_command(digits_folder, tmp_path / "run", *method, "--method.invariance-weight", "1"))
    assert refused.returncode == 2
    assert "--method.invariance-weight" in refused.stderr
    done = _run(_command(digits_folder, tmp_path / "run", *method))
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["pretrain"]["method"]["name"] == "barlow_twins"
    assert config["pretrain"]["method"]["redundancy_weight"] == 0.01
    lines = read_metrics(tmp_path / "run")
    assert {"on_diagonal", "off_diagonal", "embedding_std"} <= lines[-1].keys()
    assert lines[-1]["on_diagonal"] < lines[0]["on_diagonal"]
    assert "on " in done.stdout


@pytest.mark.slow
def test_the_whole_chain_runs_here_in_order(digits_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ("--train.epochs", "1", "--then-eval")
    done = subprocess.run(_command(digits_folder, run, *more), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    states = [(job.name, job.state) for job in collect(run)]
    assert states == [("pretrain", "finished"), ("evaluations", "finished"), ("report", "finished")]
    assert "top-1" in (run / "report.md").read_text()
    again = subprocess.run(_command(digits_folder, run, *more), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "done, skipped" in again.stdout


def test_what_is_compiled_is_kept_where_nobody_else_can_put_code(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = digits_config(digits_folder)
    config = replace(config, train=replace(config.train, compile=True))
    write_config(tmp_path, "digits", config)
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # what the run sets is taken away behind it
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(work, "train", lambda *_: Outcome.FINISHED)
    monkeypatch.setattr(joined_ranks, "configure_logging", lambda *_: None)
    (tmp_path / "start").mkdir()
    work.run_job(Task(0, 1, 0, 1, str(tmp_path / "start"), cpus=1), StopFlag(), str(tmp_path))
    place = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert place.parent == tmp_path / f"vicreg-{os.geteuid()}"
    require_private(place)
