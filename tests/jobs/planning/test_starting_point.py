"""What follows from an option that decides others, so that no value of another size, folder or length stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import pretrain
from jobs.options.pretrain import parse
from jobs.planning.starting_point import find


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.image-size", "64"], (64, 73)),
        (["--data.image-size=64"], (64, 73)),
        (["--data.image_size", "448"], (448, 512)),
        (["--recipe", "cifar10", "--data.image-size", "64"], (64, 64)),
        (["--data.image-size", "64", "--data.eval-resize", "64"], (64, 64)),
        (["--data.image-size", "224"], (224, 256)),
    ],
)
def test_the_size_that_is_measured_at_follows_the_size_of_images(
    arguments: list[str], expected: tuple[int, int]
) -> None:
    data = parse(arguments).config.data
    assert (data.image_size, data.eval_resize) == expected


def test_what_follows_is_said() -> None:
    assert find(["--data.image-size", "64"], "imagenet-1000ep").notes == {
        "data.eval_resize": "73: 256 for 224 px, in proportion"
    }
    notes = find(["--recipe", "swav", "--data.image-size", "64"], "").notes
    assert any("stays, as the recipe's views have their own" in said for said in notes.values())
    assert find([], "imagenet-1000ep").notes == {}


def test_the_validation_beton_is_the_one_beside_the_training_beton() -> None:
    data = parse(["--data.train", "mine/train.beton"]).config.data
    assert (data.train, data.val) == ("mine/train.beton", "mine/val.beton")
    data = parse(["--data.train", "mine/train.beton", "--data.val", "other/val.beton"]).config.data
    assert data.val == "other/val.beton"


def test_a_short_run_has_a_short_warm_up() -> None:
    optimizer = parse(["--recipe", "cifar10", "--train.epochs", "20"]).config.optimizer
    assert optimizer.warmup_epochs == 2.0  # of 10
    assert parse(["--recipe", "cifar10", "--train.epochs", "100"]).config.optimizer.warmup_epochs == 10.0
    given = ["--recipe", "cifar10", "--train.epochs", "20", "--optimizer.warmup-epochs", "5"]
    assert parse(given).config.optimizer.warmup_epochs == 5.0


def test_a_batch_larger_than_the_data_names_both_and_the_cure(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", "digits", "--data.train", str(digits_folder / "train.beton"), "--run", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        pretrain.main([*options, "--train.global-batch", "2048"])
    said = " ".join(capsys.readouterr().err.split())
    assert "global_batch is 2048, and" in said
    assert "has 1,437 images; allowed: 2 to 1437" in said
    assert "--train.global-batch 128" in said


@pytest.mark.parametrize(("encoder", "works"), [("vit_b_32", False), ("vit_tiny_patch16_224", True)])
def test_a_vit_with_images_of_another_size_works_or_says_why_not(
    encoder: str, works: bool, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", "digits", "--data.train", str(digits_folder / "train.beton"), "--run", str(tmp_path / "run")]
    options += ["--model.encoder", encoder, "--model.small-images", "False", "--data.image-size", "64", "--dry-run"]
    if works:
        assert pretrain.main(options) == 0
        return
    assert pretrain.main(options) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"encoder {encoder} does not take images of 64 px" in said
    assert "allowed: --data.image-size" in said
