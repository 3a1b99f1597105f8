"""Set-up says exactly what to run where it cannot install by itself."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with the shell's bare necessities: no compiler, no pkg-config, no apt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "env", "id", "cat"):
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return folder


def _run(path: Path, python: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(path)}
    command = [str(path / "bash"), str(ROOT / "system_packages.sh"), python]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_without_build_tools_set_up_goes_on_and_says_what_is_missing(bare_path: Path) -> None:
    done = _run(bare_path, sys.executable)
    assert done.returncode == 0
    assert done.stderr.startswith("note: set-up goes on without FFCV")
    assert "sudo apt-get install g++ pkg-config libopencv-dev libturbojpeg0-dev" in done.stderr
    assert "conda install -c conda-forge cxx-compiler pkg-config opencv libjpeg-turbo" in done.stderr


def test_apt_without_rights_is_not_tried(bare_path: Path) -> None:
    for tool, script in (("apt-get", "echo tried >&2"), ("id", "echo 1000"), ("sudo", "exit 1")):
        (bare_path / tool).unlink(missing_ok=True)
        (bare_path / tool).write_text(f"#!{bare_path / 'bash'}\n{script}\n")
        (bare_path / tool).chmod(0o755)
    done = _run(bare_path, sys.executable)
    assert done.returncode == 0
    assert "tried" not in done.stderr
    assert "sudo apt-get install" in done.stderr


def test_a_python_that_cannot_make_an_environment_is_refused(bare_path: Path) -> None:
    bare = bare_path / "python-bare"
    bare.write_text(
        f'#!{bare_path / "bash"}\ncase "$2" in *version_info*|*sysconfig*) exec {sys.executable} "$@" ;; esac\nexit 1\n'
    )
    bare.chmod(0o755)
    done = _run(bare_path, str(bare))
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "-venv" in done.stderr


def test_an_old_python_is_refused(bare_path: Path) -> None:
    old = bare_path / "python3.9"
    old.write_text(f'#!{bare_path / "bash"}\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    done = _run(bare_path, str(old))
    assert done.returncode == 1
    assert "is Python 3.9.2, needed: Python 3.11 or newer" in done.stderr


def test_another_system_gets_a_sentence(bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTYPE", "darwin23")
    done = _run(bare_path, sys.executable)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this is darwin23, needed: Linux;")


def test_every_requirement_is_pinned() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    wanted = "\n".join(
        [config["options"]["install_requires"], *(extras[name] for name in ("ffcv", "dev", "docs", "tensorboard"))]
    )
    names = {re.split(r"[<>=[]", line)[0].strip().lower() for line in wanted.splitlines() if line.strip()}
    assert names <= {line.split("==")[0].lower() for line in _pins()}


def _pins() -> list[str]:
    """name==version --hash=... --hash=..., a line each."""
    text = (ROOT / "requirements.lock").read_text()
    return text.replace("\\\n", " ").splitlines()


def test_every_pin_has_hashes_and_names_no_place() -> None:
    assert len(_pins()) > 50
    assert not [line for line in _pins() if not re.fullmatch(r"[\w.-]+==[\w.!+]+( +--hash=sha256:[0-9a-f]{64})+", line)]


def test_setup_installs_nothing_without_its_hash() -> None:
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t@$(INSTALL) ")]
    assert len(installs) == 4
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert all("--no-build-isolation" in line for line in installs[1:])
