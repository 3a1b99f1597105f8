"""The command as a user runs it: what it prints, its exit codes, and no traceback for a user's error."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dataprep.beton.contract import open_beton
from dataprep.write_ffcv import main
from tests.dataprep.raw_images import make_tree

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "dataprep/write_ffcv.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_write_verify_info_and_again(tree: Path, tmp_path: Path) -> None:
    (tree / "cow" / "bad.jpg").write_text("no image")
    out = tmp_path / "out"
    arguments = ("folder", "--root", tree, "--out", out, "--num-workers", 1)
    first = run(*arguments)
    assert (first.returncode, first.stderr) == (0, "")
    beton = out / "train.beton"
    assert f"{beton}: 18 samples of 3 classes (18 JPEGs kept byte for byte), 1 rejected, " in first.stdout
    assert "images/s" in first.stdout
    assert "  rejected cow/bad.jpg: not an image" in first.stdout
    written = beton.stat().st_mtime_ns
    again = run(*arguments)
    assert again.returncode == 0
    assert "is already there" in again.stdout
    other = run(*arguments, "--write-mode", "raw")
    assert other.returncode == 1
    assert other.stderr.startswith(f"error: {beton} exists and is another")
    assert "--overwrite" in other.stderr
    assert beton.stat().st_mtime_ns == written
    assert run(*arguments, "--write-mode", "raw", "--overwrite").returncode == 0
    assert open_beton(beton).modes.min() == 1
    verified = run("verify", beton)
    assert (verified.returncode, verified.stdout) == (
        0,
        f"{beton}: whole; 18 samples, every byte as it was written\n",
    )
    info = run("info", beton)
    assert info.returncode == 0
    for expected in ("18 (0 JPEG, 18 raw)", "image, label, index", "3 with 6 to 6 samples: ant, bee, cow"):
        assert expected in info.stdout


def test_verify_names_problems(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", "--root", str(tree), "--out", str(tmp_path), "--num-workers", "0"]) == 0
    path = tmp_path / "train.beton"
    content = bytearray(path.read_bytes())
    content[int(open_beton(path).pointers[7]) + 100] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert main(["verify", str(path)]) == 1
    output = capsys.readouterr().out
    assert "sample 7 (bee/001.jpg): its bytes have changed" in output
    assert "1 problem;" in output


def test_verify_shows_twenty_problems_of_a_kind_and_counts_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["digits", "--out", str(tmp_path), "--split", "val", "--num-workers", "0"]) == 0
    path = tmp_path / "val.beton"
    beton, content = open_beton(path), bytearray(path.read_bytes())
    for sample in range(100):
        content[int(beton.pointers[sample])] ^= 1
    path.write_bytes(content + bytes(24))
    capsys.readouterr()
    assert main(["verify", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("its bytes have changed" in line for line in lines) == 20
    assert "... and 80 more samples whose bytes have changed" in lines
    assert re.search(r"10\d problems", lines[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet", "--root", "TREE", "--out", "OUT"], "ILSVRC2012_img_train.tar"),
        (["folder", "--root", "/absent", "--out", "OUT"], "--root /absent is no folder"),
        (["folder", "--root", "TREE", "--out", "OUT", "--quality", "101"], "--quality is 101, allowed: 1 to 100"),
        (["cifar10", "--root", "TREE", "--out", "OUT"], "cifar-10-batches-py/data_batch_1"),
        (["digits", "--out", "OUT", "--split", "test"], "'test', allowed: train, val"),
        (["places205", "--root", "TREE", "--out", "OUT"], "train_places205.csv is missing, looked for"),
        (["voc07", "--root", "TREE", "--out", "OUT"], "VOCtrainval_06-Nov-2007.tar"),
        (["inat18", "--root", "TREE", "--out", "OUT", "--split", "val"], "val2018.json is missing"),
        (["subset", "/absent.beton", "--name", "x", "--fraction", "0.1"], "no such file"),
        (["subset", "/absent.beton", "--name", "x"], "say how to choose: --list FILE, or --fraction"),
        (["subset", "/x.beton", "--name", "x", "--list", "l", "--fraction", "1"], "say how to choose"),
        (["subset", "/absent.beton", "--name", "beton", "--fraction", "0.1"], "--name is 'beton', allowed"),
        (["verify", "/absent.beton"], "no such file"),
        (["info", "/absent.beton"], "no such file"),
    ],
)
def test_user_errors_are_one_line(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {"TREE": str(tree), "OUT": str(tmp_path / "out")}
    assert main([places.get(argument, argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_label_vectors_from_writing_to_a_subset(tmp_path: Path) -> None:
    written = run("digits", "--multi-label", "--split", "val", "--out", tmp_path, "--limit", 200, "--shuffle-seed", 3)
    assert (written.returncode, written.stderr) == (0, "")
    beton = tmp_path / "val.beton"
    assert f"{beton}: 200 samples of 5 classes, 0 rejected" in written.stdout
    verified = run("verify", beton)
    assert (verified.returncode, verified.stdout) == (
        0,
        f"{beton}: whole; 200 samples, every byte as it was written\n",
    )
    info = run("info", beton)
    labels = open_beton(beton).labels
    present = [int((labels[:, column] == 1).sum()) for column in range(5)]
    for expected in (
        f"vectors of 5 classes; per image {(labels == 1).sum() / 200:.2f} present, ",
        f"5 with {min(present)} to {max(present)} samples",
        "digits, multi-label val",
    ):
        assert expected in info.stdout
    assert "is another" in run("digits", "--split", "val", "--out", tmp_path).stderr
    refused = run("subset", beton, "--name", "few", "--fraction", 0.1)
    assert (refused.returncode, "has label vectors" in refused.stderr) == (1, True)
    assert run("digits", "--split", "val", "--out", tmp_path, "--overwrite").returncode == 0
    chosen = run("subset", beton, "--name", "few", "--fraction", 0.1, "--seed", 4)
    assert (chosen.returncode, chosen.stdout) == (0, f"{tmp_path}/val.few.json: 36 of 360 samples\n")


def test_other_counts_than_published_are_refused_unless_that_is_wished(tmp_path: Path) -> None:
    make_tree(tmp_path / "val", 2, ("n01440764", "n01443537"))
    arguments = ("imagenet", "--root", tmp_path, "--split", "val", "--out", tmp_path / "out", "--num-workers", 0)
    refused = run(*arguments)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: imagenet val: 4 images in {tmp_path}, published are 50,000; ")
    assert "--allow-partial" in refused.stderr
    assert not (tmp_path / "out").exists()
    written = run(*arguments, "--allow-partial")
    assert written.returncode == 0
    assert written.stderr.splitlines() == [
        f"warning: imagenet val: 4 images in {tmp_path}, published are 50,000",
        f"warning: imagenet val: 2 classes with images in {tmp_path}, published are 1,000",
    ]


def test_what_is_seldom_meant_is_said(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "one" / "Training" / "all", 2, ("cat", "dog"))
    root = tree.parents[1]
    (root / "Training" / "loop").symlink_to("loop")
    written = run("folder", "--root", root, "--split", "Training", "--out", tmp_path, "--num-workers", 0)
    assert (
        f"{root}/Training/loop: link to nothing, to itself or to a folder that it lies in, left out" in written.stderr
    )
    assert written.returncode == 0
    assert "Training.beton: 4 samples of 1 class (4 JPEGs" in written.stdout
    only_folders, one_class, split = (line for line in written.stderr.splitlines() if line.startswith("warning: "))
    assert "1 of 1 classes" in only_folders
    assert "hold only folders" in only_folders
    assert "has one class only, all" in one_class
    assert "--split is 'Training', none of train, val" in split


@pytest.mark.parametrize(
    ("arguments", "lines"), [(["verify"], 0), (["verify"], 1), (["info"], 1), (["folder", "--help"], 1)]
)
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(
    tree: Path, tmp_path: Path, arguments: list[str], lines: int
) -> None:
    assert main(["folder", "--root", str(tree), "--out", str(tmp_path), "--num-workers", "0"]) == 0
    command = [sys.executable, "dataprep/write_ffcv.py", *arguments]
    command += [str(tmp_path / "train.beton")] if "--help" not in arguments else []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 1, 141)


@pytest.mark.parametrize(
    "command", ["imagenet", "places205", "voc07", "inat18", "cifar10", "digits", "folder", "subset"]
)
def test_every_command_explains_itself_at_80_columns(command: str) -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    arguments = [sys.executable, "dataprep/write_ffcv.py", command, "--help"]
    shown = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True, env=environment).stdout
    assert f"write_ffcv.py {command}" in shown
    assert "(required)" in shown
    box = [line for line in shown.splitlines() if line.startswith("│")]
    assert {len(line) for line in box} == {80}


def test_help_and_unknown_options() -> None:
    shown = run("imagenet", "--help")
    assert shown.returncode == 0
    for option in ("--root", "--out", "--split", "--write-mode", "--max-resolution", "--quality", "--num-workers"):
        assert option in shown.stdout
    for option in ("--limit", "--shuffle-seed", "--on-bad", "--overwrite"):
        assert option in shown.stdout
    unknown = run("digits", "--out", "x", "--sizee", "3")
    assert unknown.returncode == 2
    assert "Traceback" not in unknown.stderr


def test_a_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "raw", num_per_class=400)
    master, slave = pty.openpty()
    command = [sys.executable, "dataprep/write_ffcv.py", "folder", "--root", str(tree), "--out", str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(command, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    output = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        output += part
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = output.decode()
    assert re.search(r"\d+/1200", text)
    assert "images/s" in text
    assert "1,200 samples" in text


@pytest.mark.parametrize(("word", "meant"), [("imagnet", " (did you mean imagenet?)"), ("xyz", ""), ("a\x1bb", "")])
def test_an_unknown_source_costs_three_lines_of_80_columns(
    word: str, meant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([word, "--root", "x", "--out", "y"]) == 2
    said = capsys.readouterr().err
    lines = said.rstrip("\n").split("\n")
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert f"{meant}, allowed: imagenet, places205," in " ".join(said.split())
    assert "\x1b" not in said
