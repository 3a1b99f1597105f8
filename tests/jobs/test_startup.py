"""A command that only says something does not wait for what computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.planning.run_folder import write_config
from tests.jobs.run_folders import digits_config
from tests.test_architecture import ROOT
from vicreg.run_files import ENCODER_FILE

SLOW = (
    "torch",
    "torchvision",
    "timm",
    "matplotlib",
    "sklearn",
    "scipy",
    "numba",
    "ffcv",
    "onnx",
    "pycocotools",
)
COMMANDS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__")
DATA = ("--data.train", "DIGITS/train.beton", "--data.val", "DIGITS/val.beton")
PRETRAIN = ("pretrain", "--recipe", "digits", *DATA)
MEASURED = (*PRETRAIN, "--then-eval")
REFUSED = [
    (("pretrain", "--recipe", "digit"), "recipe is 'digit' (did you mean digits?), allowed: auto"),
    (("pretrain", "--recipe", "digits"), "data/digits/train.beton: no such file; write it with"),
    (("pretrain", "--train.epochs", "three"), "--train.epochs: it is 'three', allowed: a whole number"),
    (("pretrain", "--train.epochs"), "Missing value for argument '--train.epochs'"),
    (("pretrain", "--optimizer.base-lr", "nan"), "--optimizer.base-lr: it is 'nan', allowed: a number"),
    (("pretrain", "--views", "paperr"), "invalid choice 'paperr'"),
    (("pretrain", "--seeds", "0"), "seeds is 0, allowed: 1 or more"),
    (("pretrain", "--sweep", "optimizer.base-lr="), "allowed: OPTION=VALUE,VALUE,..."),
    ((*PRETRAIN, "--sweep", "optimizer.base-lr=0.1,x"), "it is 'x', allowed: a number"),
    ((*PRETRAIN, "--sweep", "optimizer.base-lrr=0.1,0.2"), "--optimizer.base-lr FLOAT"),
    (("pretrain", "--recipe", "auto", "--data.train", "nope.beton"), "nope.beton: no such file; write it with"),
    (("pretrain", "--recipe", "digits", "--data.train", "DIGITS"), "is a folder, allowed: a beton, such as"),
    (("pretrain", "--recipe", "digits", "--data.train", "RUN/config.json"), "config.json: not a beton of version 2"),
    ((*PRETRAIN, "--run", "RUN/config.json"), "Not a directory), allowed: one that can be made and written"),
    ((*PRETRAIN, "--gpus", "-1"), "gpus is -1, allowed: 0"),
    ((*PRETRAIN, "--model.encoder", "resnet51"), "model.encoder is 'resnet51', allowed: resnet10-narrow, a"),
    ((*PRETRAIN, "--model.encoder-b", "vit_smal_patch16_224"), "(did you mean vit_small_patch16_224"),
    ((*PRETRAIN, "--sweep", "model.encoder=resnet18,resnet19"), "model.encoder is 'resnet19', allowed: resnet10-na"),
    ((*PRETRAIN, "--model.weights", "w.pt"), "model.weights is 'w.pt', allowed: torchvision or timm (those"),
    ((*PRETRAIN, "--nodes", "2"), "nodes is 2, allowed on cluster local (this machine): 1"),
    ((*PRETRAIN, "--train.seed", "-1"), "seed is -1, allowed: 0 or more"),
    ((*PRETRAIN, "--set", "knn.neighbours=5"), "add --then-eval"),
    ((*MEASURED, "--set", "liner.epochs=3"), "no evaluation 'liner' to be measured (did you mean linear?)"),
    ((*MEASURED, "--set", "linear.epoch=3"), "no setting 'epoch' (did you mean epochs?)"),
    ((*MEASURED, "--set", "linear.epochs=many"), "'many' is not what it wants, allowed: a whole number"),
    ((*MEASURED, "--baselines", "randon"), "baselines is randon (did you mean random?), allowed: random, pixels"),
    (("eval_all", "missing"), "missing is no run folder"),
    (("eval_all", "RUN", "--evals", "knnn"), "evals is knnn (did you mean knn?)"),
    (("eval_all", "RUN", "--set", "knn.neighbours=0"), "neighbours is (0,), allowed: 1 or more"),
    (("eval_all", "RUN", "--checkpoints", "-1"), "checkpoints is '-1', allowed: last, all, or how many"),
    (("eval_all", "RUN", "--encoder", "c"), "encoder is 'c', allowed for this run: a"),
    (("eval_all", "RUN", "--cluster", "nope"), "cluster is 'nope', allowed: "),
    (("embed", "RUN", "--images", "x", "--out", "f.npy"), "is not finished (it has no encoder.pt); go on with"),
    (("embed", "DONE", "--images", "x", "--out", "f.npy"), "x: no such file; allowed: a beton, or a folder of images"),
    (("embed", "DONE", "--images", "x.beton", "--out", "f.npy"), "x.beton: no such file; allowed: a beton, or"),
    (("search", "DONE", "--gallery", "x", "--query", "DONE/config.json"), "x: no such file; allowed: a beton, or"),
    (("search", "missing", "--gallery", "x", "--query", "y"), "missing is no run folder"),
    (("export_encoder", "missing", "--format", "onnx", "--out", "a"), "missing is no run folder"),
    (("export_encoder", "DONE", "--format", "onnx", "--out", "DONE"), "exists already; remove it, or choose"),
    (("import_encoder", "missing.pt", "--run", "r"), "missing.pt: no such file"),
    (("import_encoder", "--random", "--run", "r", "--encoder", "resnet51"), "encoder is 'resnet51', allowed: resnet10"),
    (("import_encoder", "--random", "--run", "r", "--channels", "-1"), "channels is -1, allowed: 0 (RGB), or 1 to 16"),
    (("import_encoder", "--random", "--run", "r", "--channels", "x"), "it is 'x', allowed: a whole number, or None"),
    (("report",), "runs is empty, allowed: one run folder or more"),
    (("report", "missing"), "missing is no run folder"),
    (("status", "missing"), "missing is no run folder"),
    (("board", "missing"), "missing is no folder; allowed: one with runs"),
]


@pytest.mark.parametrize("module", [*(f"jobs.{name}" for name in COMMANDS), "dataprep.write_ffcv"])
def test_help_and_wrong_options_come_before_what_takes_long(module: str) -> None:
    code = f"""
import contextlib, io, sys, {module} as command
for words, expected in ((["--help"], 0), (["--no-such-option"], 2)):
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command.main(words)
    except SystemExit as left:
        assert left.code == expected, (words, left.code)
    else:
        raise AssertionError(words)
print(*(name for name in {SLOW} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_what_cannot_be_is_refused_before_what_takes_long(digits_folder: Path, tmp_path: Path) -> None:
    """Each in few lines that name it, with exit code 1 or 2; one process, whose imports add up."""
    run, done = tmp_path / "run", tmp_path / "done"
    for folder in (run, done):
        write_config(folder, "digits", digits_config(digits_folder))
    (done / ENCODER_FILE).touch()  # what is in it takes torch to tell
    names = {"DIGITS": str(digits_folder), "RUN": str(run), "DONE": str(done)}
    cases = []
    for words, message in REFUSED:
        for name, path in names.items():
            words = tuple(word.replace(name, path) for word in words)
        cases.append((*words[:1], words[1:], message))
    code = """
import contextlib, importlib, io, json, sys
said = []
for name, words, _ in json.load(sys.stdin):
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code = importlib.import_module(f"jobs.{name}").main(words)
        except SystemExit as left:
            code = left.code
    said.append((code, errors.getvalue(), [name for name in SLOW if name in sys.modules]))
print(json.dumps(said))
"""
    command = subprocess.run(
        [sys.executable, "-c", code.replace("SLOW", repr(SLOW))],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "200", "VICREG_CLUSTER": "local", "HOME": str(tmp_path)},
        input=json.dumps(cases),
        capture_output=True,
        text=True,
    )
    assert command.returncode == 0, command.stderr
    for (name, words, message), (exit_code, said, slow) in zip(cases, json.loads(command.stdout), strict=True):
        assert exit_code in (1, 2), (name, words, said)
        assert message in said, (name, words, said)
        assert len(said.splitlines()) <= 12, said
        assert slow == [], (name, words)


def test_a_dry_run_of_a_recipe_loads_no_compiler_and_no_networks(tmp_path: Path) -> None:
    code = """
import sys
from jobs import pretrain
code = pretrain.main(["--recipe", "imagenet-1000ep", "--dry-run", "--cluster", "local"])
print(code, *(name for name in ("torch._dynamo", "torchvision", "timm", "sklearn", "sympy") if name in sys.modules))
"""
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1", done.stderr  # there are no data
    assert "it would not start" in done.stdout
