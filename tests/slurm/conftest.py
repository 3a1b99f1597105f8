"""Stand-ins for SLURM's commands: programs on PATH that note their calls and print what a real SLURM printed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurm import calls

PROGRAM = """\
#!{python} -IS
import json, os, sys, time
folder, name, words = {folder!r}, os.path.basename(sys.argv[0]), sys.argv[1:]
with open(f"{{folder}}/calls.jsonl", "a") as file:
    file.write(json.dumps({{"command": [name, *words], "environment": dict(os.environ)}}) + "\\n")
number = sum(json.loads(line)["command"][0] == name for line in open(f"{{folder}}/calls.jsonl"))
said = json.load(open(f"{{folder}}/says.json"))
line = " ".join([name, *words])
answers = said[max((start for start in said if line.startswith(start)), key=len)]
output, error, code, seconds = answers.pop(0) if len(answers) > 1 else answers[0]
json.dump(said, open(f"{{folder}}/says.json", "w"))
time.sleep(seconds)
if code < 0:
    os.kill(os.getpid(), -code)
print(output.replace("{{number}}", str(100 + number)), end="")
print(error, end="", file=sys.stderr)
sys.exit(code)
"""
HEADERS = {
    "squeue": "JOBID|STATE|NODELIST|REASON|START_TIME|TIME|COMMAND\n",
    "sinfo": "PARTITION|TIMELIMIT|NODES|GRES|MEMORY\n",
    "sinfo --Node": "NODELIST|STATE\n",
    "sacct": "JobID|State\n",
}


@dataclass(frozen=True)
class Call:
    """One call of a command."""

    command: list[str]
    environment: dict[str, str]


class FakeSlurm:
    """The commands of a SLURM that says what it is told to; they alone are on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "says.json").write_text("{}")

    def says(
        self, start: str, output: str = "", error: str = "", code: int = 0, seconds: float = 0, after: int = 0
    ) -> None:
        """What calls beginning with `start` answer, the longest start counts; {number} is 100 + number of the call.

        A code below zero is a signal that ends the command. `after`: how many of the answers given before still hold,
        one call each. Tables get the header that SLURM prints.
        """
        output = HEADERS.get(start, "") + output if code == 0 else output
        said = json.loads((self.folder / "says.json").read_text())
        said[start] = [*said.get(start, [])[:after], (output, error, code, seconds)]
        (self.folder / "says.json").write_text(json.dumps(said))
        program = self.folder / "bin" / start.split()[0]
        program.write_text(PROGRAM.format(python=sys.executable, folder=str(self.folder)))
        program.chmod(0o755)

    def calls(self, name: str) -> list[Call]:
        """How a command was called, in order."""
        path = self.folder / "calls.jsonl"
        calls = [Call(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if call.command[0] == name]


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A SLURM without any command yet."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "bin").mkdir()
    monkeypatch.setenv("PATH", str(folder / "bin"))
    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(calls, "PATIENCE_S", 1.0)
    return FakeSlurm(folder)
