"""A dry run beside a stored example, and what cannot be: found before any queueing, with the cure."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataprep import write_ffcv
from jobs.options.pretrain import parse
from jobs.planning import recipes
from jobs.planning.ablations import ABLATIONS
from jobs.pretrain import main
from vicreg import methods

Pretrain = Callable[..., tuple[int, str]]
ROOT = Path(__file__).parents[3]
FIRST = {next(iter(methods.load(name).RECIPES)) for name in methods.names()}
SLOW = pytest.mark.slow  # a second each, a hundred of them
EXAMPLE = Path(__file__).with_name("dry_run_4x8.txt")
SINFO = """PARTITION|TIMELIMIT|NODES|GRES|MEMORY
gpu*|20:00:00|16|gpu:a100:8(S:0-1)|515000
debug|30:00|2|gpu:a100:2|515000"""
PROFILE = """
[mysite]
partition = "gpu"
account = "vision"
gpus_per_node = 8
cpus_per_gpu = 8
mem_per_gpu_gb = 60
time = "20:00:00"
gpu_memory_gb = 80
node_memory_gb = 512
modules = ["cuda/12.4"]
omit_flags = ["wckey"]
environment = {NCCL_SOCKET_IFNAME = "ib0"}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a profile, the sinfo of a site with 16 nodes, and an sbatch that must not be used."""
    (tmp_path / "clusters.toml").write_text(PROFILE)
    commands = {"sinfo": f"cat <<'END'\n{SINFO}\nEND", "sbatch": f"touch {tmp_path}/submitted; echo 1"}
    for name, body in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return tmp_path


@pytest.fixture
def pretrain(
    site: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """The command on that site; returns its exit code and all that it said. A flag given twice counts as given last."""
    monkeypatch.chdir(site)
    monkeypatch.setenv("VICREG_CLUSTERS", str(site / "clusters.toml"))
    monkeypatch.setenv("PATH", f"{site / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "120")
    options = {
        "--cluster": "mysite",
        "--nodes": "4",
        "--gpus": "8",
        "--run": str(site / "run"),
        "--data.train": str(digits_folder / "train.beton"),
        "--data.val": str(digits_folder / "val.beton"),
        "--train.global-batch": "1024",
    }

    def command(*more: str) -> tuple[int, str]:
        try:
            code = main([*[part for pair in options.items() for part in pair], *more])
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return command


@pytest.fixture(scope="module")
def captions_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Betons of numbers and how they are spelled out."""
    folder = tmp_path_factory.mktemp("captions")
    for split in ("train", "val"):
        options = ["digits", "--captions", "--split", split, "--out", str(folder), "--num-workers", "0"]
        assert write_ffcv.main(options) == 0
    return folder


@pytest.fixture(scope="module")
def tones_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Betons of melodies."""
    folder = tmp_path_factory.mktemp("tones")
    for split in ("train", "val"):
        options = ["--out", str(folder), "--split", split, "--limit", "256", "--num-workers", "0"]
        assert write_ffcv.main(["tones", *options]) == 0
    return folder


def test_a_dry_run_is_the_stored_example(site: Path, digits_folder: Path, pretrain: Pretrain) -> None:
    code, shown = pretrain("--then-eval", "--dry-run")
    assert code == 0, shown
    shown = shown.replace(str(digits_folder), "DIGITS").replace(str(site), "SITE")
    shown = shown.replace(sys.executable, "PYTHON").replace(str(ROOT), "TREE")
    shown = re.sub(r"[\d,]+\s+GB\s+free", "N GB free", shown)
    shown = "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"
    assert shown == EXAMPLE.read_text()
    assert not (site / "submitted").exists()
    assert not (site / "run").exists()


@pytest.mark.parametrize(
    "command",
    [
        *(pytest.param(f"--recipe {name}", marks=() if name in FIRST else SLOW) for name in recipes.RECIPES),
        *(pytest.param(row.command, marks=SLOW) for row in ABLATIONS if row.options),
    ],
)
def test_every_recipe_and_every_row_of_the_paper_can_be_planned(
    pretrain: Pretrain, captions_folder: Path, tones_folder: Path, command: str
) -> None:
    """With a narrow network, whose memory and arithmetic are found quickly, and no more images than there are here."""
    options = command.removeprefix("python jobs/pretrain.py ").split()
    batch = str(min(1024, parse(options).config.train.global_batch))
    narrow = "--nodes", "1", "--model.encoder", "resnet10-narrow", "--train.global-batch", batch, "--dry-run"
    folders = {"captions": captions_folder, "esc50": tones_folder, "spoken-digits": tones_folder, "tones": tones_folder}
    folder = next((folder for word, folder in folders.items() if word in command), None)
    data = [f"--data.{split}={folder / f'{split}.beton'}" for split in ("train", "val")] if folder else []
    code, shown = pretrain(*options, *narrow, *data)
    assert code == 0, shown
    assert "resnet10-narrow" in shown


WRONG = [
    (
        ["--train.global-batch", "1000"],
        "global_batch is 1000, allowed: a multiple of the 32 ranks, such as 992 or 1024",
    ),
    (
        ["--data.train", "nowhere/train.beton"],
        "dataprep/write_ffcv.py folder --root IMAGES --out nowhere --split train",
    ),
    (["--data.val", "nowhere/val.beton", "--then-eval"], "nowhere/val.beton: no such file"),
    (
        ["--run", "/proc/nowhere"],
        "run folder is '/proc/nowhere' (/proc: No such file or directory), allowed: one that can be made and written",
    ),
    (["--partition", "gpus"], "partition is 'gpus', allowed: gpu, debug; choose one with --partition"),
    (["--nodes", "32"], "nodes is 32, allowed: at most 16 in partition gpu; see --nodes"),
    (["--partition", "debug", "--nodes", "2"], "GPUs per node is 8, allowed: at most 2 in partition debug; see --gpus"),
    (
        ["--time", "3-00"],
        "time is 3-00, allowed: at most 20.0 h in partition gpu; see --time; a longer run is requeued",
    ),
    (["--time", "soon"], "time is 'soon'"),
    (["--nodes", "0"], "nodes is 0, allowed: 1 or more"),
    (["--cluster", "nosuch"], "cluster is 'nosuch', allowed: slurm, local, mysite, or add a table [nosuch]"),
    (["--model.encoder", "resnet51"], "encoder is 'resnet51', allowed:"),
    (["--nodes", "1", "--gpus", "1"], "the 80 GB of a GPU of mysite; take --train.micro-batch 512, by the estimate"),
    (["--stage-data"], "stage-data needs node_local_folder in clusters.toml, table [mysite]"),
]


@pytest.mark.parametrize(("more", "message"), WRONG, ids=[" ".join(more[:2]) for more, _ in WRONG])
@pytest.mark.parametrize("dry", [("--dry-run",), ()], ids=["dry", "wet"])
def test_what_cannot_be_is_said_before_any_queueing(
    site: Path, pretrain: Pretrain, more: list[str], message: str, dry: tuple[str, ...]
) -> None:
    code, said = pretrain(*more, *dry)
    said = " ".join(said.split())
    assert code == 1, said
    assert message in said, said
    assert not (site / "submitted").exists()


def test_all_that_is_wrong_is_said_at_once(pretrain: Pretrain) -> None:
    _, said = pretrain("--nodes", "32", "--time", "3-00", "--data.train", "nowhere.beton")
    for part in ("--nodes", "--time", "nowhere.beton"):
        assert part in said


def test_sbatch_s_own_variables_stand_in_the_plan_or_are_said_not_to_hold(
    pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"QOS": "long", "PARTITION": "debug", "TIMELIMIT": "1", "EXPORT": "NONE"}.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    code, said = pretrain("--dry-run")
    assert code == 0, said
    assert "#SBATCH --qos=long" in said  # the profile leaves it open
    assert "#SBATCH --partition=gpu" in said
    unused = "SBATCH_EXPORT=NONE, SBATCH_PARTITION=debug, SBATCH_TIMELIMIT=1 not used: the script holds"
    assert unused in " ".join(said.split())
