"""The command that is named for a missing beton writes it, as it stands there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from dataprep import write_ffcv
from dataprep.sources.options import Output
from jobs import pretrain
from jobs.execution import pretrain as work
from jobs.planning import recipes
from jobs.planning.checks import check_val_data
from jobs.planning.writing_commands import writing_command
from tests.jobs.run_folders import digits_config

ROOT = Path(__file__).parents[3]


def _run(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True, capture_output=True)


def _photos(folder: Path, number: int) -> None:
    for place in range(number):
        path = folder / f"class {place % 2}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 12, 3), place, np.uint8)).save(path)


def _captioned(folder: Path, number: int) -> None:
    (folder / "images").mkdir(parents=True)
    lines = ["image,caption"]
    for place in range(number):
        Image.fromarray(np.full((12, 12, 3), place, np.uint8)).save(folder / "images" / f"{place}.png")
        lines.append(f"{place}.png,grey number {place}")
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("layout", ["digits", "held out", "folder of its own", "captions"])
def test_the_command_writes_what_is_missing(layout: str, digits_folder: Path, tmp_path: Path) -> None:
    betons = tmp_path / "my betons"
    if layout == "digits":
        betons.mkdir()
        for name in ("train.beton", "train.beton.json"):
            shutil.copy(digits_folder / name, betons / name)
    elif layout == "captions":
        _captioned(tmp_path / "raw", 20)
        _run(f"python dataprep/write_ffcv.py captions --root {tmp_path / 'raw'} --out '{betons}' --num-workers 0")
    else:
        _photos(tmp_path / "raw" / ("train" if layout == "folder of its own" else ""), 20)
        _run(f"python dataprep/write_ffcv.py folder --root {tmp_path / 'raw'} --out '{betons}' --num-workers 0")
        if layout == "folder of its own":
            _photos(tmp_path / "raw" / "val", 4)
    assert not (betons / "val.beton").exists()
    _run(writing_command(betons / "val.beton"))
    assert (betons / "val.beton").exists()


def test_a_data_set_is_known_by_its_folder_and_the_rest_stands_in_capitals() -> None:
    command = writing_command(Path("data/imagenet/val.beton"))
    assert command.endswith("dataprep/write_ffcv.py imagenet --root RAW --out data/imagenet --split val")
    assert "folder --root IMAGES --out photos --split train" in writing_command(Path("photos/train.beton"))


OF_FOLDERS = {"cifar100", "imagenette"}  # published as folders of classes


DATA = [recipes.recipe(name).pretrain.data for name in recipes.RECIPES]


@pytest.mark.parametrize("beton", sorted({path for data in DATA for path in (data.train, data.val)}))
def test_the_data_of_every_recipe_have_a_command_that_can_be_read(beton: str) -> None:
    source, *options = shlex.split(writing_command(Path(beton)))[2:]
    folder = Path(beton).parent
    assert (source == "folder") == (folder.name in OF_FOLDERS)
    command = tyro.cli(write_ffcv.Command, args=[source, *options], config=(tyro.conf.FlagCreatePairsOff,))
    assert isinstance(command, Output)
    assert command.out == folder


def test_a_missing_validation_beton_is_noticed_when_a_run_starts(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(digits_folder / name, tmp_path / name)
    check = check_val_data(digits_config(tmp_path), is_needed=False)
    assert check.passed is None
    assert check_val_data(digits_config(tmp_path), is_needed=True).passed is False
    assert f"digits --out {tmp_path} --split val" in check.whole
    monkeypatch.setattr(work.chain, "run_here", lambda *_: True)
    options = ["--recipe", "digits", "--data.train", str(tmp_path / "train.beton"), "--run", str(tmp_path / "run")]
    assert pretrain.main(options) == 130
    assert f"note: {tmp_path / 'val.beton'}: no such file" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        pretrain.main([*options, "--online.every-epochs", "1"])
    assert "val.beton: no such file; the evaluations need it" in capsys.readouterr().err
