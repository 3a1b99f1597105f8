"""The embed command: the evaluations' features in each format, resumed, on two ranks; what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

import vicreg
from dataprep.beton.contract import open_beton
from jobs import embed
from jobs.execution.embed import PARTS
from jobs.reporting import feature_file
from tests.dataprep.raw_images import make_tree
from tests.jobs.run_folders import digits_config, write_run
from vicreg import checkpoint, networks
from vicreg.config_json import to_json
from vicreg.evals import framed_images, kept_features
from vicreg.exchange.encoder_file import save_encoder
from vicreg.method import UNKNOWN_DATA

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "x"
    write_run(folder, digits_config(digits_folder), "digits")
    return folder


def _embed(*arguments: str | Path) -> int:
    return embed.main([*map(str, arguments), "--cluster", "local"])


@pytest.mark.parametrize("suffix", feature_file.SUFFIXES)
def test_a_beton_with_its_names_and_labels(suffix: str, run: Path, tmp_path: Path, digits_folder: Path) -> None:
    beton, out = digits_folder / "val.beton", tmp_path / f"features{suffix}"
    assert _embed(run, "--images", beton, "--out", out) == 0
    found = feature_file.read(out)
    np.testing.assert_array_equal(found.values, vicreg.load(run, device="cpu").embed_beton(beton))
    assert found.labels == [str(label) for label in open_beton(beton).labels]
    assert found.names[0] == "0/0000"
    assert not (run / "jobs" / found_job(run) / PARTS).exists()


def found_job(run: Path) -> str:
    """The newest job of a run."""
    return max((run / "jobs").iterdir(), key=lambda path: path.stat().st_mtime).name


def test_a_folder_is_written_into_a_beton_first(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path / "photos", num_per_class=2)
    (tmp_path / "photos" / "ant" / "zzz.jpg").write_bytes(b"no photo")
    out = tmp_path / "out" / "features.parquet"
    command = (run, "--images", tmp_path / "photos", "--out", out, "--layer", "layer3")
    assert _embed(*command) == 0
    said = capsys.readouterr().out
    assert "has 6 images, kept for the next time; 1 could not be used, see " in said
    assert f"{out}: 6 images, 64 features each" in said
    table = pyarrow.parquet.read_table(out)
    assert table["file"].to_pylist() == [
        f"{name}/00{number}.jpg" for name in ("ant", "bee", "cow") for number in (0, 1)
    ]
    assert table["label"].to_pylist() == ["ant", "ant", "bee", "bee", "cow", "cow"]
    paths = [tmp_path / "photos" / name for name in table["file"].to_pylist()]
    expected = vicreg.load(run, device="cpu").embed(paths, layer="layer3")
    np.testing.assert_array_equal(np.stack(table["features"].to_pylist()).astype(np.float32), expected)
    assert _embed(*command) == 0
    assert "is there already, of the same images" in capsys.readouterr().out
    (tmp_path / "photos" / "ant" / "000.jpg").rename(tmp_path / "photos" / "bee" / "ant.jpg")
    assert _embed(*command, "--unlabelled") == 0  # other images: again
    assert sorted(feature_file.read(out).names)[1] == "bee/000.jpg"
    assert feature_file.read(out).labels == []


def test_it_goes_on_where_it_was(
    run: Path, tmp_path: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beton, out = digits_folder / "val.beton", tmp_path / "features.npy"
    monkeypatch.setattr(kept_features, "KEEP_EVERY_S", 0.0)
    batches = framed_images.centre_batches
    asked: list[int] = []

    def stopped_after_two(*arguments: object, **named: object) -> object:
        asked.append(len(arguments[2]))
        for number, batch in enumerate(batches(*arguments, **named)):
            if number == 2 and len(asked) == 1:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(framed_images, "centre_batches", stopped_after_two)
    with pytest.raises(SystemExit) as ended:
        _embed(run, "--images", beton, "--out", out)
    assert ended.value.code == 130
    assert not out.exists()
    assert _embed(run, "--images", beton, "--out", out) == 0
    assert asked == [360, 360 - 256]
    np.testing.assert_array_equal(np.load(out), vicreg.load(run, device="cpu").embed_beton(beton))


def test_embeddings_of_the_expander(tmp_path: Path, digits_folder: Path) -> None:
    run, config = tmp_path / "run", digits_config(digits_folder)
    method = networks.build(config, UNKNOWN_DATA).eval()
    write_run(run, config, "digits")
    save_encoder(run / "encoder.pt", method.encoders["a"], config.model, {})
    state = {"method": method.state_dict(), "step": 5, "config": to_json(config)}
    checkpoint.save(run / "checkpoints", 5, state, keep=1)
    model = vicreg.load(run, device="cpu")
    image = np.full((16, 16, 3), 50, np.uint8)
    expected = method.expander(method.encoders["a"](model.transform(image)[None]))
    np.testing.assert_allclose(model.embed(image, layer="expander"), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert model.embed(image, layer="expander.0").shape == (1, 512)
    write_run(run, config, "digits", encoder_seed=3)
    with pytest.raises(ValueError, match="its expander does not belong to it"):
        vicreg.load(run, device="cpu").embed(image, layer="expander")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "none.beton", "--out", "a.npy"), "none.beton: no such file; allowed: a beton, or a folder"),
        (("--images", "none", "--out", "a.npy"), "none: no such file; allowed: a beton, or a folder"),
        (("--images", "DIGITS", "--out", "a.txt"), "a.txt ends in '.txt', allowed: .parquet, .npy, .csv"),
        (("--images", "DIGITS", "--out", "there.npy"), "--overwrite replaces it, or choose another --out"),
        (("--images", "DIGITS", "--out", "a.npy", "--layer", "x"), "layer is 'x', allowed: conv1, "),
        (("--images", "DIGITS", "--out", "a.npy", "--encoder", "b"), "encoder is 'b', allowed for this run: a"),
        (("--images", "parts", "--out", "a.npy"), "several parts, train, val; choose one with --split"),
    ],
)
def test_refusals(
    options: tuple[str, ...],
    message: str,
    run: Path,
    tmp_path: Path,
    digits_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npy").write_bytes(b"mine")
    make_tree(tmp_path / "parts" / "train", 1)
    make_tree(tmp_path / "parts" / "val", 1)
    with pytest.raises(SystemExit):
        _embed(run, *(str(digits_folder / "val.beton") if word == "DIGITS" else word for word in options))
    assert message in capsys.readouterr().err
    assert (tmp_path / "there.npy").read_bytes() == b"mine"


def test_on_a_cluster_the_beton_is_a_job_of_its_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(tmp_path / "photos", 1)
    where = (run, "--images", tmp_path / "photos", "--out", tmp_path / "f.csv")
    assert embed.main([*map(str, where), "--cluster", "slurm", "--gpus", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    first, second = said.split("afterok images-")
    assert "--ntasks-per-node=1" in first
    assert "gpus" not in first
    assert "--gpus-per-node=2" in second


@pytest.mark.slow
def test_two_ranks_give_the_same_bits(run: Path, tmp_path: Path, digits_folder: Path) -> None:
    beton = digits_folder / "val.beton"
    command = [sys.executable, "jobs/embed.py", run, "--images", beton, "--cluster", "local", "--gpus"]
    for ranks in ("1", "2"):
        words = [*map(str, command), ranks, "--out", str(tmp_path / f"{ranks}.npy")]
        subprocess.run(words, cwd=ROOT, check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    np.testing.assert_array_equal(np.load(tmp_path / "1.npy"), np.load(tmp_path / "2.npy"))
    assert json.loads((tmp_path / "1.npy.json").read_text()) == json.loads((tmp_path / "2.npy.json").read_text())
    assert torch.from_numpy(np.load(tmp_path / "1.npy")).isfinite().all()
