"""The evaluation command: it computes what is missing, skips what holds, and says what is wrong."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from jobs import eval_all, pretrain
from jobs.execution.pretrain import evaluations_of
from jobs.options.pretrain import Command
from jobs.planning import measurement, pieces, recipes, run_folder, subjects
from jobs.planning.recipes import Evaluation
from jobs.reporting.measured_run import load_run
from jobs.reporting.result_tables import other_settings
from slurm.cluster import Cluster
from tests.jobs.run_folders import digits_config, write_run
from vicreg import checkpoint
from vicreg.config import ModelConfig
from vicreg.evals import features, results
from vicreg.evals.results import PIXELS, RANDOM, TRAINED
from vicreg.exchange.encoder_file import checksum, load_encoder, untrained_encoder

ROOT = Path(__file__).parents[2]
NUM_TRAIN, NUM_VAL = 240, 120
EVALUATIONS = (
    Evaluation("few-labels", "few_labels", {"label_counts": [10, 100], "draws": 3}, (RANDOM, PIXELS)),
    Evaluation("knn", "knn", {}, (PIXELS,)),
)
ALL = [("few-labels", TRAINED), ("knn", TRAINED), ("few-labels", RANDOM), ("few-labels", PIXELS), ("knn", PIXELS)]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    handlers = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def _few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "evaluations", lambda name: EVALUATIONS)


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with betons of a few digits."""
    folder = tmp_path_factory.mktemp("few_digits")
    for split, num in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        _write_digits(folder, split, num)
    return folder


def _write_digits(folder: Path, split: str, num: int) -> None:
    command = ["dataprep/write_ffcv.py", "digits", "--out", str(folder), "--split", split, "--limit", str(num)]
    subprocess.run([sys.executable, *command, "--overwrite"], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def measured(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all results, to be copied."""
    run = tmp_path_factory.mktemp("runs") / "measured"
    write_run(run, digits_config(few_digits), "digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "evaluations", lambda name: EVALUATIONS)
        assert eval_all.main([str(run)]) == 0
    return run


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    """A copy of the measured run."""
    return Path(shutil.copytree(measured, tmp_path / "run"))


def _finished(run: Path) -> dict[tuple[str, str], int]:
    """When each result was written."""
    return {
        piece: (results.folder(run, *piece) / "result.json").stat().st_mtime_ns
        for piece in ALL
        if (results.folder(run, *piece) / "result.json").exists()
    }


def _computed(run: Path, *arguments: str) -> list[tuple[str, str]]:
    """What a call of the command computed."""
    before = _finished(run)
    assert eval_all.main([str(run), *arguments]) == 0
    return [piece for piece, when in _finished(run).items() if before.get(piece) != when]


def test_pretraining_typed_again_submits_only_the_evaluations_that_are_missing(run: Path, few_digits: Path) -> None:
    command = Command(recipe="digits", config=digits_config(few_digits))
    cluster, console = Cluster("mine"), Console()
    assert evaluations_of(command, cluster, run, 1, console) == []
    (results.folder(run, "knn", PIXELS) / "result.json").unlink()
    members = evaluations_of(command, cluster, run, 1, console)
    assert [member.spec.name for member in members] == ["knn", "report"]
    assert members[-1].after == ("knn",)
    (run / "encoder.pt").unlink()
    members = evaluations_of(command, cluster, run, 1, console)
    assert [member.spec.name for member in members] == ["few-labels", "knn", "report"]


def test_a_result_says_what_it_is(run: Path, few_digits: Path) -> None:
    assert list(_finished(run)) == ALL
    result = json.loads((run / "evals" / "few-labels" / "result.json").read_text())
    assert result["evaluation"] == "few-labels"
    assert result["module"] == "few_labels"
    assert result["subject"] == "trained"
    assert list(result["metrics"]) == [
        "top1_10_labels",
        "top1_10_labels_std",
        "top1_100_labels",
        "top1_100_labels_std",
    ]
    assert result["settings"]["label_counts"] == [10, 100]
    assert result["settings"]["inverse_regularisation"] == 0.1
    assert result["data"]["train"]["path"] == str(few_digits / "train.beton")
    assert (result["data"]["train"]["num_images"], result["data"]["val"]["num_images"]) == (NUM_TRAIN, NUM_VAL)
    assert (result["num_classes"], result["num_features"], result["num_ranks"]) == (10, 128, 1)
    assert result["encoder_sha256"] == checksum(load_encoder(run / "encoder.pt"))
    assert result["duration_s"] > 0
    assert torch.__version__.startswith(result["versions"]["torch"])
    pixels = json.loads((run / "evals" / "knn@pixels" / "result.json").read_text())
    assert pixels["num_features"] == 3 * 16 * 16
    assert pixels["metrics"]["top1_20_neighbours"] > 80  # digits are easy for neighbours of pixels
    assert not list(run.rglob("*.tmp"))


def test_what_is_done_is_skipped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _computed(run) == []
    output = capsys.readouterr().out
    assert output.count("done, skipped") == 5
    assert "few-labels, raw pixels: done, skipped" in output
    assert "nothing to do" in output


def test_only_what_is_named_is_computed_and_overwrite_computes_again(run: Path) -> None:
    assert _computed(run, "--evals", "knn", "--overwrite") == [("knn", TRAINED), ("knn", PIXELS)]


def test_other_settings_are_computed_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = (EVALUATIONS[0], Evaluation("knn", "knn", {"neighbours": [5]}, (PIXELS,)))
    monkeypatch.setattr(recipes, "evaluations", lambda name: changed)
    assert _computed(run) == [("knn", TRAINED), ("knn", PIXELS)]
    assert "knn, trained: again, because of neighbours: [20, 200] -> [5]" in capsys.readouterr().out
    found = results.read(run, "knn", TRAINED)
    assert found is not None
    assert list(found.metrics) == ["top1_5_neighbours"]


def test_other_weights_are_measured_again(run: Path, few_digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(run, digits_config(few_digits), "digits", encoder_seed=8)
    assert _computed(run) == [("few-labels", TRAINED), ("knn", TRAINED)]
    assert "few-labels, trained: again, because of other weights" in capsys.readouterr().out


def test_moved_data_are_the_same_and_other_data_are_not(
    run: Path, few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(few_digits, tmp_path / "moved"))
    write_run(run, digits_config(moved), "digits")
    assert _computed(run) == []
    _write_digits(moved, "val", 100)
    assert _computed(run, "--evals", "knn") == [("knn", TRAINED), ("knn", PIXELS)]
    assert "knn, trained: again, because of other data (val)" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{", '{"metrics": {}}'])
def test_a_damaged_result_is_computed_again(run: Path, content: str) -> None:
    (run / "evals" / "knn" / "result.json").write_text(content)
    assert _computed(run) == [("knn", TRAINED)]


def test_evaluations_of_one_subject_share_its_features(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[tuple[str, str]] = []
    original = features.compute_features

    def counted(encoder: nn.Module, splits: features.Splits, split: features.SplitName) -> features.Features:
        computed.append((type(encoder).__name__, split))
        return original(encoder, splits, split)

    monkeypatch.setattr(features, "compute_features", counted)
    assert len(_computed(run, "--overwrite")) == 5
    resnet, pixels = [("ResNet", "val"), ("ResNet", "train")], [("Pixels", "val"), ("Pixels", "train")]
    assert computed == [*resnet, *resnet, *pixels]  # trained, random, pixels


@pytest.mark.slow
def test_two_ranks_give_the_same_result(run: Path, few_digits: Path, tmp_path: Path) -> None:
    other = tmp_path / "two_ranks"
    write_run(other, digits_config(few_digits), "digits")
    command = [sys.executable, "jobs/eval_all.py", str(other), "--evals", "knn", "--gpus", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for subject in (TRAINED, PIXELS):
        alone, together = results.read(run, "knn", subject), results.read(other, "knn", subject)
        assert alone is not None
        assert together is not None
        assert together.num_ranks == 2
        assert together.metrics == alone.metrics


def test_the_random_network_has_open_residual_branches() -> None:
    closed = untrained_encoder(ModelConfig("resnet18", small_images=True), seed=0)
    encoder = subjects.open_residuals(untrained_encoder(ModelConfig("resnet18", small_images=True), seed=0))
    assert not closed.layer1[0].bn2.weight.any()
    assert bool((encoder.layer1[0].bn2.weight == 1).all())
    assert torch.equal(encoder.conv1.weight, closed.conv1.weight)


def _no_run(run: Path) -> None:
    shutil.rmtree(run)


def _no_encoder(run: Path) -> None:
    (run / "encoder.pt").unlink()


def _damaged_config(run: Path) -> None:
    (run / "config.json").write_text('{"recipe": "digits"')


def _foreign_encoder(run: Path) -> None:
    torch.save({"a": 1}, run / "encoder.pt")


def _no_beton(run: Path) -> None:
    content: dict[str, Any] = json.loads((run / "config.json").read_text())
    content["pretrain"]["data"]["val"] = "nowhere/val.beton"
    (run / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("break_it", "arguments", "message"),
    [
        (_no_run, [], "is no run folder (it has no config.json); make one with  python jobs/pretrain.py --run"),
        (
            _no_encoder,
            [],
            "is not finished (it has no encoder.pt); go on with  python jobs/pretrain.py --run",
        ),
        (_damaged_config, [], "config.json is damaged"),
        (_foreign_encoder, [], "encoder.pt is not an encoder of this suite"),
        (_no_beton, [], "nowhere/val.beton: no such file); write it (python "),
        (
            None,
            ["--evals", "knn", "lineer"],
            "evals is lineer (did you mean linear?), allowed for recipe digits: few-labels, knn",
        ),
        (None, ["--after", "17:18"], "--after is '17:18', allowed: the id of a SLURM job, digits alone"),
        (None, ["--gpus", "-1"], "gpus is -1, allowed: 0 (the cluster's number) or more"),
    ],
)
def test_bad_input_is_named(
    break_it: Any, arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if break_it:
        break_it(run)
    with pytest.raises(SystemExit) as stop:
        eval_all.main([str(run), *arguments])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert message in " ".join(error.split(" "))
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbours": [0]}, "neighbours is (0,), allowed: 1 or more"),
        ({"neighbors": [5]}, "Config is ['neighbors'], allowed: the fields neighbours, votes, temperature"),
    ],
)
def test_impossible_settings_are_named(
    settings: dict[str, Any],
    message: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recipes, "evaluations", lambda name: (Evaluation("knn", "knn", settings),))
    with pytest.raises(SystemExit):
        eval_all.main([str(run)])
    assert message in capsys.readouterr().err


def test_what_is_done_before_a_stop_stays(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = measurement.measure

    def interrupted(piece: pieces.Piece, *rest: Any) -> results.Result:
        if piece.subject == RANDOM:
            raise KeyboardInterrupt
        return original(piece, *rest)

    shutil.rmtree(run / "evals")
    monkeypatch.setattr(measurement, "measure", interrupted)
    with pytest.raises(SystemExit) as stop:
        eval_all.main([str(run)])
    assert stop.value.code == 130
    assert "stopped; what is done stays" in capsys.readouterr().out
    assert list(_finished(run)) == [("few-labels", TRAINED), ("knn", TRAINED)]
    monkeypatch.setattr(measurement, "measure", original)
    assert _computed(run) == ALL[2:]


def _train_folder(folder: Path, *more: str) -> None:
    for split in ("train", "val"):
        command = ["dataprep/write_ffcv.py", "digits", "--out", str(folder), "--split", split, "--limit", "220", *more]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)


def test_other_betons_give_results_of_their_own(run: Path, tmp_path: Path) -> None:
    _train_folder(tmp_path / "mine")
    betons = ["--train", str(tmp_path / "mine" / "train.beton"), "--val", str(tmp_path / "mine" / "val.beton")]
    assert _computed(run, "--evals", "knn", *betons) == []
    result = results.read(run, "knn-on-mine", TRAINED)
    assert result
    assert result.data["train"]["num_images"] == 220


def test_evaluations_without_data_are_skipped_and_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = Evaluation("multi-label", "svm", {"costs": [1.0]}, data="attributes")
    monkeypatch.setattr(recipes, "evaluations", lambda name: (*EVALUATIONS, more))
    assert _computed(run) == []
    assert "multi-label: no data (data/attributes/train.beton: no such file), skipped" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        eval_all.main([str(run), "--evals", "multi-label"])
    assert "data/attributes/train.beton: no such file" in capsys.readouterr().err

    _train_folder(tmp_path / "attributes", "--multi-label")
    profile = f'[mine]\nscheduler = "local"\ndata = {{attributes = "{tmp_path / "attributes"}"}}\n'
    (tmp_path / "clusters.toml").write_text(profile)
    monkeypatch.setenv("VICREG_CLUSTERS", str(tmp_path / "clusters.toml"))
    assert eval_all.main([str(run), "--cluster", "mine"]) == 0
    result = results.read(run, "multi-label", TRAINED)
    assert result
    assert result.metrics["map"] > 50


def test_checkpoints_along_training_are_measured(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = run_folder.read_run(run)
    for step, seed in ((100, 7), (200, 8)):
        encoder = untrained_encoder(config.model, seed)
        weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
        checkpoint.save(run / "checkpoints", step, {"method": weights | {"expander.0.weight": torch.ones(1)}}, keep=3)
    assert eval_all.main([str(run), "--evals", "knn", "--checkpoints", "all"]) == 0
    assert "knn, step 200: top1 20 neighbours" in capsys.readouterr().out
    first, second = (results.read(run, "knn", f"step_{step:08d}") for step in (100, 200))
    trained = results.read(run, "knn", TRAINED)
    assert first
    assert second
    assert trained
    assert first.metrics == trained.metrics  # the same weights
    assert second.encoder_sha256 != trained.encoder_sha256
    assert eval_all.main([str(run), "--evals", "knn", "--checkpoints", "1"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        eval_all.main([str(run), "--checkpoints", "none"])
    assert "checkpoints is 'none', allowed: last, all, or how many of the newest" in capsys.readouterr().err


def test_published_evaluations_can_be_asked_for_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_all.main([str(run), "--evals", "semisup-1-swav", "--set", "semisup-1-swav.epochs=1"]) == 0
    assert "0.01 of each class drawn with seed 0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "semisup-10"])
def test_a_stopped_evaluation_goes_on_to_the_same_numbers(name: str, digits_folder: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for run in (whole, stopped):
        write_run(run, digits_config(digits_folder), "digits")
    command = [sys.executable, "jobs/eval_all.py", "--cluster", "local", "--evals", name]
    subprocess.run([*command, str(whole)], cwd=ROOT, check=True, capture_output=True, timeout=300)
    with subprocess.Popen([*command, str(stopped)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if "epoch" in line:
                process.send_signal(signal.SIGTERM)
                break
        said = process.stdout.read()
    assert process.returncode == 130
    assert "stopped at step" in said
    again = subprocess.run([*command, str(stopped)], cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    assert "going on at step" in again.stdout
    for subject in (TRAINED, RANDOM):
        expected, found = results.read(whole, name, subject), results.read(stopped, name, subject)
        assert expected
        assert found
        assert (found.metrics, found.details) == (expected.metrics, expected.details)
        assert not (results.folder(stopped, name, subject) / "state").exists()


def _error(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        eval_all.main([str(run), *arguments])
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_a_setting_by_option_is_measured_kept_and_holds_until_another_is_given(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _computed(run, "--set", "knn.neighbours=5") == [("knn", TRAINED), ("knn", PIXELS)]
    result = results.read(run, "knn", TRAINED)
    assert result
    assert (result.options, result.settings["neighbours"]) == ({"neighbours": [5]}, [5])
    assert list(result.metrics) == ["top1_5_neighbours"]
    assert _computed(run) == []  # it is what is wanted of this run now
    described = load_run(run)
    assert described.results["knn", TRAINED] == result
    assert not described.outdated
    assert "knn: given by option: neighbours [5]." in other_settings(described)
    (results.folder(run, "knn", PIXELS) / "result.json").unlink()
    assert _computed(run) == [("knn", PIXELS)]
    beside = results.read(run, "knn", PIXELS)
    assert beside
    assert beside.options == {"neighbours": [5]}
    assert _computed(run, "--evals", "knn", "--overwrite") == [("knn", TRAINED), ("knn", PIXELS)]
    result = results.read(run, "knn", TRAINED)
    assert result
    assert (result.options, result.settings["neighbours"]) == ({}, [20, 200])
    assert "did you mean neighbours?" in _error(capsys, run, "--set", "knn.neighbors=5")


def test_what_cannot_be_measured_stops_no_other_and_its_reason_comes_last(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "evals")
    with pytest.raises(SystemExit) as stop:
        eval_all.main([str(run), "--set", "few-labels.label_counts=2000"])
    assert stop.value.code == 1
    assert list(_finished(run)) == [("knn", TRAINED), ("knn", PIXELS)]
    captured = capsys.readouterr()
    reason = "label_counts is 2000, allowed: up to the 240 training images"
    assert captured.err.splitlines()[-1].count(reason) == 3  # of the encoder and of both baselines
    assert captured.err.splitlines()[-1].startswith("error: failed: evaluations: 3 of 5 could not be measured")
    report = " ".join(captured.out.split())
    assert report.index(f"few-labels (trained): {reason}") > report.index("Percent on")
    assert _computed(run) == [piece for piece in ALL if piece[0] == "few-labels"]
    assert results.read_reason(run, "few-labels", TRAINED) == ""


def test_defaults_that_few_images_do_not_allow_are_fitted_and_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipes, "evaluations", lambda name: (Evaluation("knn", "knn", {"neighbours": [20, 2000]}),))
    assert eval_all.main([str(run)]) == 0
    result = results.read(run, "knn", TRAINED)
    assert result
    assert list(result.metrics) == ["top1_20_neighbours"]
    assert result.notes == ["20 neighbours instead of 20, 2000, for 240 training images"]
    assert f"knn: {result.notes[0]}." in " ".join(capsys.readouterr().out.split())


def test_baselines_by_option_are_measured_beside(
    run: Path, few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "other run", digits_config(few_digits), "digits", encoder_seed=8)
    assert _computed(run, "--evals", "knn", "--baselines", "random", str(tmp_path / "other run")) == []
    for subject in (RANDOM, "other_other_run"):
        result = results.read(run, "knn", subject)
        assert result, subject
    assert result.encoder_sha256 == checksum(load_encoder(tmp_path / "other run" / "encoder.pt"))
    assert "other_run's encoder" in capsys.readouterr().out
    assert not load_run(run).damaged
    allowed = "allowed: random, pixels, or a finished run"
    assert allowed in _error(capsys, run, "--baselines", "noise")


@pytest.mark.parametrize("option", ["--set", "--baselines", "--jobs"])
def test_options_of_evaluations_need_evaluations(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretrain.main(["--recipe", "digits", option, "knn.neighbours=5"])
    assert "add --then-eval" in capsys.readouterr().err
