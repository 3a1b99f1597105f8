"""The containers are set up as a machine is: by the Makefile, from the same lock; what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKER, APPTAINER = ROOT / "Dockerfile", ROOT / "apptainer.def"


def _lines(path: Path) -> list[str]:
    """Instructions with their continuations, without comments."""
    text = path.read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _sections() -> dict[str, list[str]]:
    """The definition's sections by name; the header's is empty."""
    found: dict[str, list[str]] = {"": []}
    for line in _lines(APPTAINER):
        if line.startswith("%"):
            found[line[1:]] = []
        else:
            found[[*found][-1]].append(line)
    return found


def _commands() -> dict[str, list[str]]:
    """What is run to build each, command by command."""
    docker = [line.removeprefix("RUN ") for line in _lines(DOCKER) if line.startswith("RUN ")]
    return {"docker": [part.strip() for line in docker for part in line.split("&&")], "apptainer": _sections()["post"]}


def test_both_begin_with_the_same_system_and_install_the_same() -> None:
    docker, header = _lines(DOCKER), _sections()[""]
    image = next(line.removeprefix("FROM ") for line in docker if line.startswith("FROM "))
    assert header == ["Bootstrap: docker", f"From: {image}"]
    python = re.match(r"python:(\d+\.\d+)-", image)
    assert python is not None
    assert f"python_requires = >={python[1]}" in (ROOT / "setup.cfg").read_text()
    apt = {name: [line for line in lines if line.startswith("apt-get")] for name, lines in _commands().items()}
    assert apt["docker"] == apt["apptainer"]
    assert len(apt["docker"]) == 2


@pytest.mark.parametrize("kind", ["docker", "apptainer"])
def test_packages_come_by_the_makefile_alone_and_so_from_the_lock(kind: str) -> None:
    lines = _commands()[kind]
    assert [line for line in lines if line.startswith("make ")] == ["make setup PYTHON=python3.11"]
    assert not [line for line in lines if re.search(r"\b(pip|uv|conda|curl|wget|git)\b", line.replace("PIP_NO", ""))]
    makefile = (ROOT / "Makefile").read_text()
    setup = re.search(r"^\$\(INSTALLED\): (.+)$", makefile, re.MULTILINE)
    assert setup is not None
    assert "requirements.lock" in setup[1].split()
    assert all((ROOT / name).is_file() for name in setup[1].split())


def test_all_paths_inside_are_there() -> None:
    for path in (DOCKER, APPTAINER, ROOT / "docs" / "cluster.md"):
        named = re.findall(r"/opt/vicreg/([\w./-]+\.py)", path.read_text())
        assert all((ROOT / name).is_file() for name in named)
    assert "COPY . ." in _lines(DOCKER)
    assert _sections()["files"] == [". /opt/vicreg"]
    assert "export PATH=/opt/vicreg/.venv/bin:$PATH" in _sections()["environment"]
    assert "ENV PATH=/opt/vicreg/.venv/bin:$PATH" in _lines(DOCKER)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "data", "runs", "build"} <= set(ignored)
    kept = {
        "setup.cfg",
        "requirements.lock",
        "system_packages.sh",
        "Makefile",
        "README.md",
        "LICENSE",
        "jobs",
        "vicreg",
    }
    assert not kept & set(ignored)
