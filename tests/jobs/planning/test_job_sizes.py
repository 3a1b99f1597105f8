"""How large the jobs of evaluations are: as their work is, and as whoever says so wants them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs import eval_all
from jobs.execution import eval_all as work
from jobs.planning import job_sizes, recipes
from jobs.planning.job_sizes import read_sizes, say_needs, size_of, size_of_report
from jobs.planning.pieces import Choice, Piece, plan
from slurm.cluster import Cluster
from slurm.executor import sbatch_script
from slurm.job_size import JobSize, seconds
from slurm.task import JobSpec
from tests.jobs.run_folders import digits_config, write_run
from tests.vicreg.detection.small_detection import voc_data
from vicreg.config import ModelConfig
from vicreg.config_json import to_json
from vicreg.cost.evaluations import forward_flops, images_passed
from vicreg.detection.settings import Settings
from vicreg.model import encoder_by_config

SITE = Cluster("site", cpus_per_gpu=8, cpu_partition="cpu")


class _Imagenet:
    num_samples = 1_281_167


def _piece(module: str, **settings: object) -> Piece:
    return Piece(module, module, module, "trained", dict(settings), "train.beton", "val.beton")


@pytest.fixture
def _imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_sizes, "open_beton", lambda path: _Imagenet)


@pytest.mark.usefixtures("_imagenet")
def test_imagenet_s_long_evaluations_get_the_node_and_the_short_ones_a_gpu() -> None:
    config = recipes.recipe("imagenet-1000ep").pretrain
    sizes = {
        name: size_of(name, [_piece(name, **settings)], config, SITE, {}, JobSize())
        for name, settings in (("linear", {"epochs": 100}), ("knn", {}), ("gallery", {}))
    }
    assert sizes["linear"].gpus == SITE.gpus_per_node
    assert sizes["linear"].nodes == 1
    assert seconds(sizes["linear"].time) > 4 * 3600
    for name in ("knn", "gallery"):
        assert sizes[name].gpus == 1
        assert 900 < seconds(sizes[name].time) < 4 * 3600


@pytest.mark.usefixtures("_imagenet")
def test_what_is_said_wins_the_nearer_it_is_to_the_job() -> None:
    config = recipes.recipe("imagenet-1000ep").pretrain
    profile = replace(SITE, jobs={"linear": JobSize(2, 4, "9:00:00", "long")})
    pieces = [_piece("linear", epochs=100)]
    assert size_of("linear", pieces, config, profile, {}, JobSize()) == JobSize(2, 4, "9:00:00", "long")
    usual = size_of("linear", pieces, config, profile, {}, JobSize(gpus=1, time="1:00:00"))
    assert usual == JobSize(2, 1, "1:00:00", "long")
    given = {"linear": JobSize(gpus=3)}
    assert size_of("linear", pieces, config, profile, given, JobSize(gpus=1)).gpus == 3
    assert size_of_report(SITE, {}) == JobSize(1, 0, "0:30:00", "cpu")
    assert size_of_report(SITE, {"report": JobSize(partition="short")}).partition == "short"


def test_a_time_is_never_more_than_the_profile_s_or_less_than_a_stop_needs() -> None:
    config = recipes.recipe("digits").pretrain
    short = replace(SITE, time="0:20:00", signal_lead_s=60)
    assert seconds(size_of("x", [_piece("linear", epochs=10**6)], config, short, {}, JobSize()).time) == 20 * 60
    slow = replace(SITE, signal_lead_s=3600)
    assert seconds(size_of("x", [], config, slow, {}, JobSize()).time) == 7200
    sbatch_script(work.JobSpec("x", "f", {}, time="2:00:00"), Path("/runs/r/jobs/x"), slow)


def test_images_that_pass_are_counted() -> None:
    assert images_passed("linear", {"epochs": 100}, 1000, 50) == 100 * 1000 + 50
    assert images_passed("knn", {}, 1000, 50) == 1050
    detection = {"steps": 10, "batch": 16, "short_sides": [480, 800, 32], "test_short_side": 448}
    large = 2 * 4 / 3 * (3 * 160 * 800**2 + 50 * 448**2) / 224**2  # twice the encoder's, of images that are 4 to 3
    assert images_passed("detection", detection, 1000, 50, 224) == pytest.approx(large)
    assert images_passed("linear_segmentation", {"steps": 10, "batch": 16, "crop": 448}, 1000, 40, 224) == 800
    assert images_passed("semisup", {"epochs": 20, "fraction": 0.1, "subset": ""}, 1000, 50) == pytest.approx(7000)


def test_flops_are_those_of_the_convolutions() -> None:
    model = recipes.recipe("digits").pretrain.model
    encoder, expected = encoder_by_config(model), 0.0

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal expected
        assert isinstance(layer, torch.nn.Conv2d)
        expected += 2 * output.numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]

    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    encoder.eval()(torch.zeros(1, 3, 32, 32))
    assert forward_flops(model, 32) == expected


def test_flops_of_an_encoder_whose_constructor_computes() -> None:
    encoder = encoder_by_config(ModelConfig("test_vit", small_images=False)).eval()  # depths of dropout, by .item()
    plain = sdpa_kernel(SDPBackend.MATH)  # a CPU's fused attention is not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        encoder(torch.zeros(1, 3, 160, 160))
    assert forward_flops(ModelConfig("test_vit", small_images=False), 160) == counter.get_total_flops() > 0


def test_a_chain_asks_for_little_where_little_is_to_do(digits_folder: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", digits_config(digits_folder)
    write_run(run, config, "digits")
    pieces = [piece for piece in plan(run, "digits", config.data, Choice()) if piece.asked_as in ("knn", "linear")]
    sizes = work.Sizes(config, SITE, given=("knn.time=0:10:00", "report.nodes=1"))
    chain = {member.spec.name: member.spec for member in work.members(run, "digits", pieces, Choice(), sizes, 8)}
    assert chain["knn"].time == "0:10:00"
    assert {spec.ranks_per_node for spec in chain.values()} == {1}
    assert seconds(chain["linear"].time) <= 3600
    assert chain["report"].partition == "cpu"
    assert "--partition=cpu" in sbatch_script(chain["report"], tmp_path / "run" / "jobs" / "report", SITE)
    assert "--time=10" in sbatch_script(chain["knn"], tmp_path / "run" / "jobs" / "knn", SITE)
    with pytest.raises(ValueError, match=r"no job 'kn' \(did you mean knn\?\), allowed: knn"):
        work.members(run, "digits", pieces, Choice(), replace(sizes, given=("kn.gpus=1",)), 8)


@pytest.mark.parametrize("text", ["knn", "knn.time", "knn.colour=red", "knn.gpus=none"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--jobs knn"):
        read_sizes([text], ["knn"])


def test_a_dry_run_says_time_and_memory(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = voc_data(tmp_path), tmp_path / "run"
    write_run(run, digits_config(digits_folder), "digits")
    settings = ["anchor_sizes=16,32", "short_sides=64,64,16", "test_short_side=64", "longest_side=128"]
    command = [str(run), "--train", data.train, "--val", data.val, "--evals", "voc-detection", "knn", "--dry-run"]
    command += ["--set", *(f"voc-detection.{one}" for one in settings)]
    profile = tmp_path / "clusters.toml"
    profile.write_text('[small]\nscheduler = "slurm"\ngpu_memory_gb = 0.05\n')
    monkeypatch.setenv("VICREG_CLUSTERS", str(profile))
    said = []
    for more in (["--gpus", "2"], ["--cluster", "small", "--gpus", "2"]):
        assert eval_all.main([*command, *more]) == 0
        said.append(capsys.readouterr().out)
    assert re.search(r"about \d+:\d\d:\d\d \(h:mm:ss\) for 2 ranks; memory of a rank: about \d+ MB\n", said[0])
    assert re.search(r"memory of a rank: about \d+ MB, more than the 50 MB of a GPU of small: take more", said[1])
    assert said[1].count("(h:mm:ss)") == 2  # the report is not measured
    config = recipes.recipe("digits").pretrain
    config = replace(config, model=replace(config.model, encoder="test_vit", small_images=False))
    piece = replace(_piece("detection", **to_json(Settings())), train=data.train, val=data.val)
    spec = JobSpec("voc-detection", "f", {}, ranks_per_node=2)
    assert "memory: the encoder (" in say_needs([piece], config, spec, SITE)
