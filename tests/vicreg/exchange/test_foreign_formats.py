"""Exports: loaded by those whose format it is, they give the encoder's features; nothing unchecked gets its name."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision.models
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from vicreg.config import DataConfig, ModelConfig
from vicreg.exchange import foreign_formats
from vicreg.exchange.encoder_file import checksum, untrained_encoder
from vicreg.exchange.foreign_checkpoints import put_into, read
from vicreg.exchange.foreign_formats import FORMATS, Trained, export

SIZE = 64
RESNET50 = pytest.param("resnet50", marks=pytest.mark.slow)


def _trained(name: str, small_images: bool = False) -> Trained:
    """An encoder whose batch-norm statistics are not those of the beginning."""
    model = ModelConfig(name, small_images)
    encoder = untrained_encoder(model, seed=2)
    for buffer_name, buffer in encoder.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
    data = DataConfig(image_size=SIZE, eval_resize=SIZE, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    return Trained(encoder, model, data, "a test")


@pytest.mark.parametrize("changes", [{"colours": "lab"}, {"encoder_norm": "layer"}], ids=str)
def test_an_encoder_that_is_not_the_network_of_its_name_goes_to_safetensors(tmp_path: Path, changes: Any) -> None:
    model = replace(ModelConfig("resnet18"), **changes)
    data = DataConfig(image_size=SIZE, eval_resize=SIZE)
    trained = Trained(untrained_encoder(model, seed=2), model, data, "a test")
    for name in ("torchvision", "timm"):
        with pytest.raises(ValueError, match=r"allowed: --format .*safetensors"):
            export(trained, name, tmp_path / name)
    assert export(trained, "safetensors", tmp_path / "weights.safetensors").difference == 0.0


@pytest.mark.parametrize("form", ["timm", "safetensors", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_encoder_of_five_channels_is_read_back(tmp_path: Path, form: str) -> None:
    model = ModelConfig("resnet18" if form == "safetensors" else "resnet10t", channels=5)
    data = DataConfig(image_size=SIZE, eval_resize=SIZE, mean=(0.1,) * 5, std=(0.2,) * 5)
    trained = Trained(untrained_encoder(model, seed=2), model, data, "a test")
    out = tmp_path / "weights.safetensors"
    checked = export(trained, form, out)
    assert checked.reader
    assert checked.difference <= 1e-4 * checked.largest
    if form == "safetensors":
        weights = read(out)
        assert weights.model == model
        assert weights.data is not None
        assert weights.data["mean"] == [0.1] * 5
    with pytest.raises(ValueError, match=r"torchvision has no .* and 5 channels; allowed: --format"):
        export(trained, "torchvision", tmp_path / "torchvision.pth")


def _assert_same(trained: Trained, features: Tensor, images: Tensor, tolerance: float = 1e-6) -> None:
    with torch.no_grad():
        expected = trained.encoder(images)
    assert (features - expected).abs().max() <= tolerance * expected.abs().max()
    assert expected.std() > 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", RESNET50, "squeezenet1_1", "mnasnet0_5"])
def test_torchvision_loads_every_name_but_the_classifiers(tmp_path: Path, name: str) -> None:
    trained = _trained(name)
    checked = export(trained, "torchvision", tmp_path / "weights.pth")
    assert (checked.reader, checked.difference) == ("torchvision", 0.0)
    state = torch.load(tmp_path / "weights.pth", weights_only=True)
    network = torchvision.models.get_model(name, weights=None)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert unexpected == []
    assert len(missing) == 2
    assert all(name.startswith(("fc.", "classifier.")) for name in missing)
    network.set_submodule(missing[0].removesuffix(".weight"), nn.Identity())
    network.load_state_dict(state)
    images = torch.randn(2, 3, SIZE, SIZE)
    _assert_same(trained, network.eval()(images), images)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", RESNET50, "test_resnet"])
def test_timm_loads_the_folder(tmp_path: Path, name: str) -> None:
    trained = _trained(name)
    checked = export(trained, "timm", tmp_path / "model")
    assert (checked.reader, checked.difference) == ("timm", 0.0)
    network = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    _assert_same(trained, network(images), images)
    settings = timm.data.resolve_model_data_config(network)
    assert [tuple(settings[name]) for name in ("mean", "std")] == [trained.data.mean, trained.data.std]
    assert (tuple(settings["input_size"]), settings["crop_pct"]) == ((3, SIZE, SIZE), 1.0)
    with_classes = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=7).eval()
    assert with_classes(images).shape == (2, 7)
    assert torch.equal(
        with_classes.state_dict()["layer1.0.conv1.weight"], network.state_dict()["layer1.0.conv1.weight"]
    )


@pytest.mark.parametrize("small_images", [True, False])
def test_safetensors_say_what_they_hold(tmp_path: Path, small_images: bool) -> None:
    trained = _trained("resnet10-narrow", small_images)
    path = tmp_path / "encoder.safetensors"
    assert export(trained, "safetensors", path).difference == 0
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
    assert (said["encoder"], said["origin"]) == ("resnet10-narrow", "a test")
    assert [json.loads(said[name]) for name in ("image_size", "mean", "std")] == [
        SIZE,
        [0.1, 0.2, 0.3],
        [0.4, 0.5, 0.6],
    ]
    weights = read(path)
    assert weights.model == trained.model
    assert weights.data == {"image_size": SIZE, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    encoder = untrained_encoder(trained.model, seed=5)
    assert put_into(encoder, weights, "").dropped == ()
    assert checksum(encoder) == checksum(trained.encoder)
    assert load_file(path).keys() == trained.encoder.state_dict().keys()


@pytest.mark.parametrize(
    "name",
    [
        "resnet10-narrow",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "resnet50", "convnext_tiny", "test_vit")),
    ],
)
def test_onnx_takes_any_number_of_images(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    trained = _trained(name)
    if name == "test_vit":
        trained = replace(trained, data=DataConfig(image_size=160, eval_resize=160))
    path, size = tmp_path / "encoder.onnx", trained.data.image_size
    checked = export(trained, "onnx", path)
    assert checked.reader == "onnxruntime"
    assert checked.difference <= 1e-5 * checked.largest
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert [(opset.domain, opset.version) for opset in graph.opset_import if not opset.domain] == [("", 18)]
    said = {entry.key: entry.value for entry in graph.metadata_props}
    assert (said["encoder"], json.loads(said["mean"])) == (name, list(trained.data.mean))
    assert "(values from 0 to 1 - mean) / std" in said["input"]
    session = onnxruntime.InferenceSession(path)
    for count in (1, 5):
        images = torch.randn(count, 3, size, size)
        features = torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])
        assert features.shape == (count, trained.encoder.num_features)
        _assert_same(trained, features, images, tolerance=1e-4)
    assert capfd.readouterr().out == ""


def test_a_missing_package_names_the_line_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"onnxscript", "onnxruntime"}
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in missing else found(name, *more)
    )
    trained = _trained("resnet10-narrow")
    with pytest.raises(ValueError, match="onnx needs onnxscript; install with  pip install onnxscript onnxruntime"):
        export(trained, "onnx", tmp_path / "encoder.onnx")
    missing.remove("onnxscript")
    assert export(trained, "onnx", tmp_path / "encoder.onnx").reader == ""


@pytest.mark.parametrize(
    ("name", "small_images", "form", "message"),
    [
        ("resnet10-narrow", False, "torchvision", r"torchvision has no resnet10-narrow; allowed: --format timm\|safet"),
        ("test_resnet", False, "torchvision", "torchvision has no test_resnet; allowed"),
        ("resnet10-narrow", False, "timm", r"timm has no network resnet10-narrow .*; allowed: --format torchvision\|"),
        ("resnet18", True, "timm", "timm has no network resnet18 with these names and shapes"),
        ("squeezenet1_1", False, "timm", "timm has no network squeezenet1_1"),
        ("mobilenet_v2", False, "timm", "timm has no network mobilenet_v2"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path, name: str, small_images: bool, form: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export(_trained(name, small_images), form, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_the_same_name_with_other_names_is_refused(tmp_path: Path) -> None:
    assert timm.is_model("convnext_tiny")
    trained = _trained("convnext_tiny")
    with pytest.raises(ValueError, match="timm has no network convnext_tiny with these names and shapes"):
        export(trained, "timm", tmp_path / "out")


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_gives_other_features_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    trained = _trained("resnet18")
    write = FORMATS[form].write

    def write_another(asked: Trained, path: Path) -> None:
        write(replace(asked, encoder=untrained_encoder(asked.model, seed=3)), path)

    monkeypatch.setitem(foreign_formats.FORMATS, form, replace(FORMATS[form], write=write_another))
    with pytest.raises(ValueError, match=r"features of the exported file differ by up to .* nothing was written"):
        export(trained, form, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_files_are_readable_as_usual(tmp_path: Path) -> None:
    trained = _trained("resnet10-narrow")
    before = os.umask(0o027)
    try:
        export(trained, "safetensors", tmp_path / "new" / "out.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "out.safetensors").stat().st_mode & 0o777 == 0o640
    with pytest.raises(ValueError, match=r"out\.safetensors exists already; remove it, or choose another place"):
        export(trained, "safetensors", tmp_path / "new" / "out.safetensors")
