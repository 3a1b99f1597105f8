"""The export command: it says what it wrote, how that was checked, and how to load it - in lines that work."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import safetensors.torch
import timm
import torch
import torchvision

import vicreg.model
from jobs import export_encoder
from tests.jobs.run_folders import digits_config, write_run
from vicreg.config import ModelConfig, PretrainConfig
from vicreg.exchange.encoder_file import load_encoder

PACKAGES: dict[str, Any] = {
    "torch": torch,
    "torchvision": torchvision,
    "timm": timm,
    "safetensors": safetensors,
    "onnxruntime": onnxruntime,
    "vicreg": vicreg,
}


def _config(encoder: str, small_images: bool = False) -> PretrainConfig:
    config = digits_config(Path("data"))
    data = replace(config.data, image_size=64, eval_resize=64)
    return replace(config, data=data, model=ModelConfig(encoder, small_images))


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        export_encoder.main([str(argument) for argument in arguments])
    assert ended.value.code == 1
    return capsys.readouterr().err


@torch.no_grad()
@pytest.mark.parametrize(
    ("encoder", "small_images", "form"),
    [
        ("resnet18", False, "torchvision"),
        ("resnet18", True, "torchvision"),
        ("googlenet", False, "torchvision"),
        ("resnet18", False, "timm"),
        ("resnet10-narrow", True, "safetensors"),
        ("resnet10-narrow", False, "onnx"),
    ],
)
def test_the_printed_lines_load_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encoder: str, small_images: bool, form: str
) -> None:
    run, out = tmp_path / "run", tmp_path / "out.file"
    write_run(run, _config(encoder, small_images), "digits")
    assert export_encoder.main([str(run), "--format", form, "--out", str(out)]) == 0
    said, lines = capsys.readouterr().out.split("load it with\n")
    said = re.sub(r"\s+", " ", said)
    assert f"written {out}" in said
    assert ", opset 18)" in said if form == "onnx" else "opset" not in said
    assert "images (batch, 3, 64, 64), RGB, values from 0 to 1 less mean (0.305, 0.305, 0.305), over std" in said
    reader = "onnxruntime" if form == "onnx" else form
    assert f"checked read back with {reader}: features" in said
    images = torch.randn(2, 3, 64, 64)
    names: dict[str, Any] = PACKAGES | {"images": images.numpy()}
    exec(re.sub(r"(?m)^ {4}", "", lines), names)
    loaded = names.get("model", names.get("encoder"))
    features = loaded.eval()(images) if loaded else torch.from_numpy(names["features"])
    torch.testing.assert_close(features, load_encoder(run / "encoder.pt")(images), rtol=1e-4, atol=1e-5)


def test_detectron2_gets_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "encoder.pth"
    write_run(run, _config("resnet18"), "digits")
    assert export_encoder.main([str(run), "--format", "detectron2", "--out", str(out)]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "features are the same" in said
    assert "?matching_heuristics=True" in said
    state = torch.load(out, weights_only=True)["model"]
    assert torch.equal(
        state["res5.1.conv2.weight"], load_encoder(run / "encoder.pt").state_dict()["layer4.1.conv2.weight"]
    )
    write_run(tmp_path / "small", _config("resnet18", small_images=True), "digits")
    refused = _refused(capsys, tmp_path / "small", "--format", "detectron2", "--out", tmp_path / "other.pth")
    assert "detectron2 has no resnet18 of this kind" in refused


def test_wrong_input_says_what_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    command = (run, "--format", "torchvision", "--out", out)
    assert "run is no run folder" in _refused(capsys, *command)
    write_run(run, _config("resnet10-narrow"), "digits")
    assert "torchvision has no resnet10-narrow; allowed: --format timm|safetensors|onnx|detectron2" in _refused(
        capsys, *command
    )
    (run / "encoder.pt").unlink()
    assert "is not finished (it has no encoder.pt)" in _refused(capsys, *command)
    assert not out.exists()
