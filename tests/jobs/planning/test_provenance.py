"""A program runs the tree that it stands in, whatever is installed, and a run says which code made it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jobs.planning import provenance
from jobs.planning.run_folder import note_code, require_same_code
from jobs.reporting import html_report
from jobs.reporting.measured_run import load_run
from slurm.task import Task
from tests.jobs.run_folders import digits_config, write_run
from vicreg.ranks import distributed

ROOT = Path(__file__).parents[3]
FOLDERS = (*provenance.PACKAGES, "benchmarks", "drills")
MODULES_THAT_OTHERS_START = {"encoder_process.py"}  # with -P and their tree's path in PYTHONPATH
SCRIPTS = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if 'if __name__ == "__main__":\n    ' in path.read_text() and path.name not in MODULES_THAT_OTHERS_START
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_program_puts_its_own_tree_first(script: Path) -> None:
    """Before it imports anything of the project."""
    body = ast.parse(script.read_text()).body
    first_own = next(
        number
        for number, node in enumerate(body)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOLDERS)
        or (isinstance(node, ast.Import) and node.names[0].name.split(".")[0] in FOLDERS)
    )
    depth = len(script.relative_to(ROOT).parts) - 1
    wanted = f"sys.path.insert(0, str(Path(__file__).resolve().parents[{depth}]))"
    guards = [node for node in body[:first_own] if isinstance(node, ast.If)]
    assert any(ast.unparse(guard.test) == "__name__ == '__main__'" for guard in guards)
    assert any(ast.unparse(node) == wanted for guard in guards for node in guard.body)


def _git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=A", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *own, *arguments], cwd=folder, capture_output=True, check=True, env=environment)
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second checkout, with a commit, a change since, a file of code that git does not know, and one of no code."""
    folder = tmp_path_factory.mktemp("second") / "checkout"
    for package in FOLDERS:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "clusters.toml", folder)
    _git(folder, "init", "--quiet")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "all")
    with (folder / "jobs" / "report.py").open("a") as file:
        file.write("# changed\n")
    (folder / "vicreg" / "mine.py").write_text("")
    (folder / "notes.txt").write_text("")
    return folder


def _elsewhere(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with the virtual environment of the first checkout, from another folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )


def test_commands_and_ranks_of_a_second_checkout_run_its_code(checkout: Path, tmp_path: Path) -> None:
    (checkout / "jobs" / "marks.py").write_text("def run(task, stop):\n    print('rank of', __file__)\n")
    shown = _elsewhere([str(checkout / "jobs/status.py"), "--help"], tmp_path)
    assert shown.returncode == 0, shown.stderr
    task = Task(rank=0, world_size=1, local_rank=0, local_size=1, start_folder=str(tmp_path))
    command = [str(checkout / "slurm/local.py"), "jobs.marks.run", "{}", json.dumps(asdict(task))]
    done = _elsewhere(command, tmp_path)
    (checkout / "jobs" / "marks.py").unlink()
    assert done.stdout == f"rank of {checkout / 'jobs/marks.py'}\n", done.stderr


@pytest.mark.slow
def test_a_second_checkout_runs_its_own_code_and_says_so(checkout: Path, digits_folder: Path, tmp_path: Path) -> None:
    """The command and both ranks, down to what the ranks alone import."""
    options = ["--recipe", "digits", "--run", "run", "--gpus", "2", "--train.epochs", "1", "--model.expander", "64-64"]
    options += ["--data.train", str(digits_folder / "train.beton"), "--data.val", str(digits_folder / "val.beton")]
    options += ["--data.image-size", "8", "--data.eval-resize", "8"]
    with (checkout / "vicreg" / "training" / "learner.py").open("a") as file:
        file.write(f"\nopen({str(tmp_path / 'ran')!r}, 'a').write('.')\n")  # who imports it leaves a mark
    done = _elsewhere([str(checkout / "jobs/pretrain.py"), *options], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "ran").read_text()) == 3  # the command and both ranks
    [code] = json.loads((tmp_path / "run" / "config.json").read_text())["code"]
    assert code["commit"] == _git(checkout, "rev-parse", "HEAD")
    assert code["changed"] == ["jobs/report.py", "vicreg/mine.py", "vicreg/training/learner.py"]
    assert code["tree"] == str(checkout)


def _code(**fields: Any) -> provenance.Code:
    return provenance.Code(**{"commit": "a" * 40, "changed": (), "tree": "/tree", "sha256": "b" * 64} | fields)


def test_a_run_that_goes_on_by_other_code_names_both(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    write_run(run, digits_config(digits_folder), "digits")
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(content | {"commit": "0123456789abcdef"}))  # as it was once written
    for code in (_code(), _code(), _code(changed=("a.py", "b.py"), sha256="c" * 64)):
        monkeypatch.setattr(provenance, "code", lambda code=code: code)
        note_code(run)
    said = "0123456789ab; then aaaaaaaaaaaa in /tree; then aaaaaaaaaaaa with 2 changed files (a.py, b.py) in /tree"
    assert said in html_report.run_page(load_run(run))


def test_code_without_git_is_known_by_its_checksum() -> None:
    assert provenance.said(_code(commit="").to_json()) == f"unknown commit (SHA-256 of the code {'b' * 12}) in /tree"


def test_ranks_with_other_code_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(rank: int) -> str:
        with pytest.raises(ValueError, match="do not run the same code") as error:
            require_same_code(f"{rank} on n{rank}")
        return str(error.value)

    numbers = iter([1, 1])
    monkeypatch.setattr(distributed, "from_rank_0", lambda number: number + next(numbers))
    monkeypatch.setattr(distributed, "any_rank", bool)
    for rank in range(2):
        assert f"rank {rank} on n{rank} runs that of {ROOT}, with SHA-256" in body(rank)
