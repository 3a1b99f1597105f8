"""Commands that programs print work as they are typed: by a path that is there, with options that there are, quoted."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from border.text import suite_command
from jobs.planning import hints
from slurm import attempts, chain
from slurm.attempts import Attempt
from slurm.chain import Submitted
from tests.jobs.run_folders import digits_config, write_run
from tests.test_architecture import PACKAGES, ROOT, _files, _place

MAKERS = {"suite_command": 1, "run_command": 2}
"""Functions that make commands, and how many of their arguments are no words of the command."""
TYPED = re.compile(r"python3? +(jobs|dataprep|slurm|benchmarks|drills)/")
OF_PAGES = {
    "jobs/planning/ablations.py",  # the commands of docs/methods.md, which stands in the tree
    "slurm/stage_data.py",  # its own usage line
}


def _texts(tree: ast.AST) -> list[ast.Constant]:
    """Texts that are not what a module, class, function or field is said to be."""
    said = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]


def _hints() -> list[tuple[str, str, list[str]]]:
    """File, script and options of each command that is made to be printed."""
    found = []
    for path in _files(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
            if name not in MAKERS or not isinstance(node, ast.Call) or not isinstance(node.args[0], ast.Constant):
                continue
            words = [word.value for word in node.args[MAKERS[name] :] if isinstance(word, ast.Constant)]
            options = [word for word in words if isinstance(word, str) and word.startswith("--")]
            found.append((_place(path), str(node.args[0].value), options))
    return found


@pytest.mark.parametrize("path", _files(*PACKAGES), ids=_place)
def test_no_command_is_written_by_hand(path: Path) -> None:
    """It would not be quoted, nor hold in another folder; border.text and jobs.planning.hints make them."""
    tree = ast.parse(path.read_text())
    bad = [text.value for text in _texts(tree) if TYPED.search(text.value)]
    bad += [call for node in ast.walk(tree) if (call := ast.unparse(node)).startswith("shell_command('python'")]
    assert not bad or _place(path) in {*OF_PAGES, "border/text.py"}


def test_every_hint_names_a_program_and_options_that_there_are() -> None:
    found = _hints()
    assert len(found) > 10
    for place, script, options in found:
        assert (ROOT / script).is_file(), f"{place} names {script}"
        places = [ROOT / script, ROOT / "jobs/options" / Path(script).name, ROOT / "jobs/planning/cli.py"]
        text = "".join(path.read_text() for path in places if path.is_file())
        for option in options:
            field = option.removeprefix("--").replace("-", "_")
            known = re.search(rf"^    {field}: ", text, re.MULTILINE) or f'"{option}"' in text
            assert known, f"{place}: {script} has no {option}"


def test_a_command_holds_where_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert suite_command("jobs/report.py", "runs/x") == "python jobs/report.py runs/x"
    monkeypatch.chdir(tmp_path)
    assert suite_command("jobs/report.py", "a b") == f"python {ROOT}/jobs/report.py 'a b'"


def test_the_cluster_is_named_where_it_is_not_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VICREG_CLUSTER", "slurm")
    usual = f"python jobs/pretrain.py --run {tmp_path}"
    assert hints.pretrain(tmp_path) == usual
    attempts.begin(chain.job_folder(tmp_path, "pretrain"), Attempt("pid 7", 0, ("n1",), 5.0))
    assert hints.pretrain(tmp_path) == f"{usual} --cluster local"
    assert hints.eval_all(tmp_path) == f"python jobs/eval_all.py {tmp_path} --cluster local"
    monkeypatch.setenv("VICREG_CLUSTER", "local")
    assert hints.pretrain(tmp_path) == usual
    entry = Submitted("pretrain", "17", "devcluster", "", 9.0)
    monkeypatch.setattr(chain, "read_jobs", lambda run: {"pretrain": entry})
    assert hints.pretrain(tmp_path) == f"{usual} --cluster devcluster"
    hints.remember("typed")
    assert hints.pretrain(tmp_path) == f"{usual} --cluster typed"
    hints.remember("")
    monkeypatch.setenv("VICREG_CLUSTER", "none such")
    assert hints.pretrain(tmp_path) == usual


@pytest.mark.slow
def test_the_hint_of_a_report_is_typed(tmp_path: Path, digits_folder: Path) -> None:
    """In another folder, of a run whose name a shell would take apart."""
    run = tmp_path / "it's $HOME; a run"
    write_run(run, digits_config(digits_folder), "digits")
    (run / "encoder.pt").unlink()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "300"}
    report = [sys.executable, str(ROOT / "jobs" / "report.py"), run.name]
    subprocess.run(report, cwd=tmp_path, env=environment, check=True, capture_output=True)
    (line,) = [line for line in (run / "report.md").read_text().splitlines() if line.startswith("    python")]
    done = subprocess.run(
        ["bash", "-c", f"{line} --dry-run"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"run folder      {run.name}" in done.stdout or run.name in done.stdout
    assert "nothing was started or submitted" in done.stdout
