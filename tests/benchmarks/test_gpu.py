"""The benchmark of the GPU in its small form on the CPU, on a machine that has little installed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_augmentation, gpu_small_images, gpu_step
from vicreg.config import OptimizerConfig, official_views
from vicreg.method import Inputs
from vicreg.training.learner import Learner

ROOT = Path(__file__).parents[2]
ABSENT = ("ffcv", "submitit", "tyro", "timm", "sklearn", "kornia")
CPU = torch.device("cpu")


@pytest.mark.slow
def test_everything_is_measured_without_what_a_gpu_machine_may_lack(tmp_path: Path) -> None:
    for name in ABSENT:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not installed here')\n")
    written = tmp_path / "gpu.json"
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHDYNAMO_DISABLE": "1",  # what a compiler makes of it is not the matter here
    }
    command = [sys.executable, "benchmarks/gpu.py", "--all", "--json", str(written)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "its figures mean nothing" in done.stdout
    content = json.loads(written.read_text())
    assert content["small"]
    assert content["failed"] == []
    assert list(content["parts"]) == list(gpu.PARTS)
    rows = content["parts"]["step"]["rows"]
    assert {row["name"] for row in rows} == {gpu.OFFICIAL, *gpu_step.FORMS}
    assert [row["images"] for row in rows if row["name"] == gpu.OFFICIAL] == [8, 16]
    assert all(row["seconds"] > 0 for row in rows)
    kornia = content["parts"]["augmentation"]["rows"][-1]
    assert kornia == {"name": "kornia", "missing": "not installed"}
    assert content["parts"]["determinism"]["same_bits"] == 1
    assert all(part["ratios"] for part in content["parts"].values())


def test_what_fails_is_told_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel\nin detail")

    monkeypatch.setattr(gpu_step, "official_training_step", broken)
    rows = gpu_step.measure_steps(gpu_step.SMALL, 4, CPU, ("ours, eager",))
    assert rows[0] == {"name": gpu.OFFICIAL, "images": 4, "failed": "RuntimeError: no such kernel"}
    assert rows[1]["seconds"] > 0
    assert gpu.failures({"step": {"rows": rows, "ratios": []}}) == [f"{gpu.OFFICIAL}: RuntimeError: no such kernel"]


def test_the_official_step_learns_what_ours_learns() -> None:
    """One step of each from the same weights, in float32."""
    views = gpu_step.make_views(gpu_step.SMALL, 16, CPU, torch.contiguous_format)
    config = gpu_step.SMALL.config(16, channels_last=False)
    at_its_rate = OptimizerConfig(base_lr=0.1 * 256 / 16)  # benchmarks/lars.py
    config = dataclasses.replace(config, optimizer=at_its_rate)
    learner = Learner.build(config, CPU)
    network, step = gpu_step.official_training_step(gpu_step.SMALL, views)
    step()
    nothing = torch.zeros(16, dtype=torch.int64)
    learner.learn(Inputs(views, nothing, nothing), gpu_step.AT_PEAK)
    ours = learner.method.parameters()
    for mine, theirs in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_forms_of_small_images_take_the_same_steps() -> None:
    assert gpu_small_images.same_bits(gpu_step.SMALL, CPU)


def test_the_others_make_views_of_the_same_kind() -> None:
    sizes = gpu_step.SMALL
    photos = torch.randint(256, (6, 3, sizes.photo_px, sizes.photo_px), dtype=torch.uint8)
    mine = gpu_augmentation.ours(photos, gpu_augmentation.draw(sizes, 6), sizes)
    for view, made in zip(official_views(), mine, strict=True):
        other = gpu_augmentation.torchvision_view(view, sizes)(photos)
        assert other.shape == made.shape == (6, 3, sizes.image_px, sizes.image_px)
        assert other.dtype == made.dtype == torch.float32
