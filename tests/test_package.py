"""The wheel: what it consists of, and that its commands work outside any checkout."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from border import VERSION
from border.text import INSTALLED_AS
from tests.test_architecture import ROOT

SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "clusters.toml")
CODE = ("jobs", "vicreg", "dataprep", "slurm", "disk", "border", "benchmarks", "drills")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
SUITE = "vicreg_suite", "__editable__"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the source."""
    tree, out = (tmp_path_factory.mktemp(name) for name in ("tree", "wheel"))
    for name in SOURCES:
        shutil.copy(ROOT / name, tree)
    for name in CODE:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=tree, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and the packages that are installed here, but for this suite in the making."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    others = folder / "others"
    others.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(SUITE):
            (others / entry.name).symlink_to(entry)
    (packages / "others.pth").write_text(f"{others}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--quiet", str(wheel)], check=True)
    return folder


def test_every_command_has_a_name_in_the_wheel() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    found = {place.split(":")[0].replace(".", "/") + ".py": name for name, place in (x.split(" = ") for x in lines)}
    assert found == INSTALLED_AS
    scripts = [*(ROOT / "jobs").glob("*.py"), ROOT / "dataprep" / "write_ffcv.py"]
    assert {str(path.relative_to(ROOT)) for path in scripts if path.stem != "__init__"} == set(INSTALLED_AS)


def test_a_command_says_its_version() -> None:
    for script in INSTALLED_AS:
        done = subprocess.run([sys.executable, str(ROOT / script), "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"vicreg-suite {VERSION}\n"), done.stderr


@pytest.mark.slow
def test_the_wheel_has_all_that_lies_in_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = subprocess.run(["git", "ls-files", *CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert names >= set(tracked.stdout.split())
    assert f"vicreg_suite-{VERSION}.data/data/share/vicreg/clusters.toml" in names
    assert not [name for name in names if name.startswith("tests")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_digits_are_learned_by_the_installed_commands(environment: Path, tmp_path: Path) -> None:
    """Written, learned, measured, reported and exported in another folder, without the source in sight."""
    variables = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "VICREG_CLUSTERS")}
    variables |= {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path), "COLUMNS": "200"}

    def typed(*words: str, code: int = 0) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    for name in INSTALLED_AS.values():
        assert typed(name, "--version") == f"vicreg-suite {VERSION}\n"
    for split in ("train", "val"):
        typed("vicreg-write", "digits", "--out", "data/digits", "--split", split)
    small = ("--recipe", "digits", "--cluster", "local", "--gpus", "2")
    small += ("--train.epochs", "1", "--train.global-batch", "256")
    said = typed("vicreg-pretrain", *small)
    hint = said.split("measure it with")[1].split()[:3]
    assert hint[:2] == ["vicreg-eval", "runs/digits"]
    typed("vicreg-eval", "runs/digits", "--cluster", "local", "--evals", "knn")
    assert "knn" in typed("vicreg-report", "runs/digits")
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
    assert "finished" in typed("vicreg-status", "runs/digits")
    typed("vicreg-export", "runs/digits", "--format", "safetensors", "--out", "encoder.safetensors")
    made_by = json.loads((tmp_path / "runs" / "digits" / "config.json").read_text())["code"][-1]
    assert Path(made_by["tree"]).is_relative_to(environment), "the installed code ran"
    assert made_by["commit"] == ""
    profiles = tmp_path / ".config" / "vicreg" / "clusters.toml"
    profiles.parent.mkdir(parents=True)
    profiles.write_text('[mine]\nscheduler = "slurm"\npartition = "own"\n')
    words = ("--recipe", "digits", "--cluster", "mine", "--gpus", "2", "--run", "r", "--dry-run")
    script = typed("vicreg-pretrain", *words, code=1)  # no SLURM answers
    assert "#SBATCH --partition=own" in script
    assert f"{environment}/lib" in script, "the job starts the installed code"
