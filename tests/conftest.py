"""What several tests share: betons of the handwritten digits, written once by the command itself."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "tests" / "cluster"
MINUTES_LONG = ("test_end_to_end.py", "test_cifar10.py", "test_branches.py")  # one or few tests, each of minutes
LONG_ID = 100  # characters
torch.set_num_threads(1)  # what is small takes longer on several, a hundred times where cores are busy
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # nor do threads of commands that are run here keep others from the cores
os.environ["VICREG_CLUSTER"] = "local"  # whatever is installed here; the tests of SLURM name their cluster


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which several processes take tests: a file as a whole, all of a cluster, the longest first."""
    groups = {item: "cluster" if CLUSTER in item.path.parents else str(item.path) for item in items}
    slow = Counter(groups[item] for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (groups[item] != "cluster", item.path.name not in MINUTES_LONG, -slow[groups[item]]))
    has_ffcv = importlib.util.find_spec("ffcv") is not None
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
        if item.get_closest_marker("ffcv") and not has_ffcv:
            item.add_marker(pytest.mark.skip(reason="compares with FFCV, which could not be built at set-up"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Files and long texts by their argument's name: some differ from process to process, and a failure names them."""
    return argname if isinstance(val, bytes | str) and len(val) > LONG_ID else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Betons, clusters and runs that a file's tests share would be made once in every process, and nobody would see."""
    if session.config.getoption("loadgroup", False) and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("this pytest does not let pytest-xdist keep the tests of a file in one process")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a command that runs inside a test sets up for its log ends with the test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """What a command that runs inside a test sets up for signals ends with the test."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton (1,437 digits) and val.beton (360)."""
    folder = tmp_path_factory.mktemp("digits")
    for split in ("train", "val"):
        command = [sys.executable, "dataprep/write_ffcv.py", "digits", "--out", str(folder), "--split", split]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder
