"""The automatic recipe: what it sees of images, what it chooses and why, and that a run keeps what was chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataprep import write_ffcv
from jobs import pretrain
from jobs.execution import pretrain as work
from jobs.options.pretrain import parse
from jobs.planning import recipes, starting_point
from jobs.planning.auto_recipe import Machine, choose
from jobs.planning.image_facts import ImageFacts, look_at, mirror_asymmetry
from jobs.planning.run_folder import read_content
from vicreg.config import DataConfig, PretrainConfig
from vicreg.config_json import to_json
from vicreg.cost.estimate import estimate

LAPTOP, GPU = Machine(1, False, 2), Machine(1, True, 16)
PHOTOS = ImageFacts(5_000, 300, False, 0.002, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def _chosen(facts: ImageFacts, machine: Machine, **given: object) -> PretrainConfig:
    fields = {name.replace("__", "."): value for name, value in given.items()}
    return choose(facts, machine, DataConfig(), measures_online=True, given=fields)[0]


def test_what_is_seen_of_digits(digits_folder: Path) -> None:
    facts = look_at(digits_folder / "train.beton")
    assert (facts.num_images, facts.shorter_side_px, facts.is_grey) == (1437, 8, True)
    assert facts.mirror_asymmetry > 0.02  # a 3 has its back on the right
    assert facts == look_at(digits_folder / "train.beton")


def test_images_of_five_channels_of_16_bits_are_looked_at_and_chosen_for(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / "raw" / f"class_{number % 2}" / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (draw.random((40, 48, 5)) * [65535, 30000, 9000, 65535, 0]).astype(np.uint16))
    assert (
        write_ffcv.main(["folder", "--root", str(tmp_path / "raw"), "--out", str(tmp_path), "--num-workers", "0"]) == 0
    )
    facts = look_at(tmp_path / "train.beton")
    assert (facts.num_images, facts.shorter_side_px, facts.is_grey, len(facts.mean)) == (20, 40, False, 5)
    assert facts.mean[:3] == pytest.approx((0.5, 0.23, 0.069), abs=0.01)
    config = parse(["--recipe", "auto", "--data.train", str(tmp_path / "train.beton")]).config
    assert (config.model.channels, len(config.data.mean), config.views[0].hue) == (5, 5, 0.0)


def test_mirror_asymmetry_is_that_of_a_plain_loop_and_near_nothing_for_noise() -> None:
    draw = np.random.default_rng(0)
    noise = draw.random((400, 6, 6))
    assert mirror_asymmetry(noise) < 0.01  # 1 / 400 is expected
    ramp = noise + np.linspace(0, 1, 6)
    odd = np.stack([(image - np.fliplr(image)) / 2 for image in ramp])
    mean = sum(odd) / len(odd)
    spread = sum(float(((image - mean) ** 2).sum()) for image in odd) / len(odd)
    assert mirror_asymmetry(ramp) == pytest.approx(float((mean**2).sum()) / spread)
    assert mirror_asymmetry(ramp) > 0.5


@pytest.mark.parametrize(
    ("facts", "machine", "encoder", "size", "optimizer"),
    [
        (PHOTOS, LAPTOP, "resnet10-narrow", 64, "adamw"),
        (PHOTOS, GPU, "resnet18", 224, "adamw"),
        (replace(PHOTOS, shorter_side_px=32), GPU, "resnet18", 32, "adamw"),
        (replace(PHOTOS, num_images=1_300_000), GPU, "resnet50", 224, "lars"),
        (replace(PHOTOS, shorter_side_px=10), LAPTOP, "resnet10-narrow", 32, "adamw"),
    ],
)
def test_the_choice_follows_images_and_machine(
    facts: ImageFacts, machine: Machine, encoder: str, size: int, optimizer: str
) -> None:
    config, reasons = choose(facts, machine, DataConfig(), measures_online=True)
    assert (config.model.encoder, config.data.image_size, config.optimizer.name) == (encoder, size, optimizer)
    assert config.data.eval_resize == (size if size <= 64 else round(size * 256 / 224))
    assert config.train.global_batch * 8 <= facts.num_images
    assert config.optimizer.warmup_epochs <= config.train.epochs / 10
    for name in ("data.image_size", "model.encoder", "train.global_batch", "train.epochs", "optimizer.base_lr"):
        assert len(reasons[name].partition(": ")[2]) > 5, name
    if not machine.has_gpus:
        assert estimate(config, 1, on_gpu=False).memory_bytes < 4e9


@pytest.mark.parametrize("num_images", [2, 5, 30, 1_000, 3_000_000])
@pytest.mark.parametrize("ranks", [1, 3, 32])
def test_any_number_of_images_and_ranks_gives_a_batch_that_is_shared(num_images: int, ranks: int) -> None:
    for has_gpus in (False, True):
        config = _chosen(replace(PHOTOS, num_images=num_images), Machine(ranks, has_gpus, 2))
        assert config.train.global_batch % ranks == 0
        assert config.train.global_batch >= 2 * ranks


def test_what_is_given_decides_what_depends_on_it() -> None:
    config = _chosen(PHOTOS, GPU, data__image_size=32, train__epochs=30)
    assert (config.data.image_size, config.data.eval_resize) == (32, 32)
    assert config.model.small_images
    assert (config.train.epochs, config.optimizer.warmup_epochs, config.online.every_epochs) == (30, 3.0, 6)
    assert _chosen(PHOTOS, GPU, model__encoder="vit_tiny_patch16_224").model.small_images is False
    assert _chosen(PHOTOS, GPU, optimizer__name="lars").optimizer.base_lr > 0.1


def test_sides_and_colours_decide_the_views() -> None:
    assert {view.hflip_p for view in _chosen(PHOTOS, GPU).views} == {0.5}
    few = replace(PHOTOS, num_images=20, mirror_asymmetry=0.06)  # as chance makes it: 1 / 20
    assert {view.hflip_p for view in _chosen(few, GPU).views} == {0.5}
    digits = replace(PHOTOS, is_grey=True, mirror_asymmetry=0.04)
    assert [view.crop_scale[0] for view in _chosen(digits, GPU).views] == [0.5, 0.5]
    assert [view.crop_scale[0] for view in _chosen(PHOTOS, LAPTOP).views] == [0.2, 0.2]
    for view in _chosen(digits, GPU).views:
        assert (view.hflip_p, view.hue, view.saturation, view.grayscale_p, view.solarize_p) == (0, 0, 0, 0, 0)


def test_the_command_says_its_choices_and_a_run_keeps_them(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, train = tmp_path / "run", digits_folder / "train.beton"
    start = ["--recipe", "auto", "--data.train", str(train), "--run", str(run), "--train.epochs", "1"]
    start += ["--optimizer.base-lr", "0.003"]
    monkeypatch.setattr(work.chain, "run_here", lambda *_: True)
    assert pretrain.main(start) == 130
    said = capsys.readouterr().out
    assert "model.encoder  resnet10-narrow: 0.3 M parameters" in said
    assert "train.epochs  1: given" in said
    assert "optimizer.base_lr  0.003: given" in said
    content = read_content(run)
    assert content["recipe"] == "auto"
    assert content["chosen"]["optimizer.base_lr"] == "0.003: given"
    assert content["pretrain"]["data"]["val"] == str(digits_folder / "val.beton")
    # On another machine, and with nothing to look at: what was chosen holds.
    monkeypatch.setattr(starting_point, "machine_of", lambda *_: GPU)
    monkeypatch.setattr(starting_point, "look_at", None)
    for again in (["--run", str(run)], start):
        assert json.loads(json.dumps(content["pretrain"])) == json.loads(json.dumps(to_json(parse(again).config)))
    assert pretrain.main(["--run", str(run)]) == 130
    assert read_content(run)["chosen"] == content["chosen"]


def test_without_images_the_command_says_how_to_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretrain.main(["--recipe", "auto"])
    assert "name their beton with --data.train FOLDER/train.beton" in capsys.readouterr().err
    with pytest.raises(SystemExit) as shown:
        pretrain.main(["--recipe", "auto", "--help"])
    assert shown.value.code == 0


def test_own_images_are_measured_beside_random_weights_and_pixels() -> None:
    baselines = {each.name: each.baselines for each in recipes.evaluations("auto")}
    assert baselines["knn"] == baselines["few-labels"] == ("random", "pixels")
