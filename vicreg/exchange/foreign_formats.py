"""A trained encoder in others' files: torchvision, timm, safetensors, ONNX, detectron2; each read back and compared.

One writer and one reader per format: the reader is the one that a user of the file has, and its features must be those
of the encoder that was written.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from disk.whole_files import partial_path, publish, require_new
from vicreg.config import DataConfig, ModelConfig
from vicreg.exchange.detectron2_names import from_detectron2, to_detectron2
from vicreg.exchange.encoder_file import fill, untrained_encoder
from vicreg.model import is_of_torchvision

ONNX_OPSET = 18
ONNX_MAX_BYTES = 2**31  # a message of protobuf
ONNX_PACKAGES = ("onnx", "onnxscript")
TOLERANCE = 1e-4
"""Largest difference of a feature, relative to the largest feature."""
CHECK_BATCH = 3


@dataclass(frozen=True)
class Trained:
    """An encoder (on the CPU, in eval mode) and what the reader of its file will want to know."""

    encoder: nn.Module
    model: ModelConfig
    data: DataConfig
    origin: str


@dataclass(frozen=True)
class Checked:
    """How a file compared with the encoder when it was read back."""

    reader: str
    """Who read it; empty where there is no reader here."""
    difference: float
    """Largest absolute difference of the features of `CHECK_BATCH` random images."""
    largest: float
    """Largest absolute feature."""


Reader = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """How an encoder is written in one of the formats, how it is read, and with what."""

    write: Callable[[Trained, Path], None]
    read: Callable[[Trained, Path], Reader | None]
    reader: str


def export(trained: Trained, name: str, out: Path) -> Checked:
    """Write the encoder to `out` in the format of that name, complete and checked or not at all.

    Raises ValueError where something is at `out` already, where the format cannot hold this encoder, where a package
    is missing, or where the features of what was written are not the encoder's.
    """
    require_new(out)
    form = FORMATS[name]
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = partial_path(out)
    _remove(beside)
    try:
        form.write(trained, beside)
        checked = _compare(trained, form, beside)
        for file in [beside] if beside.is_file() else beside.iterdir():
            _let_read(file)
        publish(beside, out)
    finally:
        _remove(beside)
    return checked


@torch.no_grad()
def _compare(trained: Trained, form: Format, path: Path) -> Checked:
    reader = form.read(trained, path)
    size = trained.data.image_size
    images = torch.randn(CHECK_BATCH, trained.model.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    expected = trained.encoder(images)
    largest = float(expected.abs().max())
    if reader is None:
        return Checked("", 0.0, largest)
    difference = float((reader(images) - expected).abs().max())
    if not difference <= TOLERANCE * largest:
        raise ValueError(
            f"{trained.model.encoder}: the features of the exported file differ by up to {difference:.1e} (largest "
            f"feature {largest:.1e}, allowed {TOLERANCE:.0e} of it), so nothing was written; allowed: another --format"
        )
    return Checked(form.reader, difference, largest)


def _let_read(file: Path) -> None:
    """Readable for whom the user lets read new files (safetensors lets nobody else)."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_torchvision(trained: Trained, path: Path) -> None:
    model = trained.model
    channels = f" and {model.channels} channels" if model.channels else ""
    kind = f" with colours {model.colours} and encoder_norm {model.encoder_norm}{channels}"
    changed = "" if model.is_plain else kind
    if changed or not is_of_torchvision(model.encoder):
        raise ValueError(f"torchvision has no {model.encoder}{changed}; allowed: --format {_others('torchvision')}")
    torch.save(trained.encoder.state_dict(), path)


def _read_torchvision(trained: Trained, path: Path) -> Reader:
    encoder = untrained_encoder(trained.model, seed=1)
    encoder.load_state_dict(torch.load(path, weights_only=True))
    return encoder


def _write_timm(trained: Trained, path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    name, data = trained.model.encoder, trained.data
    refusal = f"timm has no network {name} with these names and shapes; allowed: --format {_others('timm')}"
    if trained.model.small_images or not timm.is_model(name):
        raise ValueError(refusal)
    options: dict[str, Any] = {"in_chans": trained.model.channels} if trained.model.channels else {}
    network: Any = timm.create_model(name, pretrained=False, num_classes=0, **options)
    try:
        fill(network, trained.encoder.state_dict(), name)
    except ValueError as error:
        raise ValueError(refusal) from error
    network.pretrained_cfg = {
        "architecture": name,
        "input_size": (trained.model.in_channels, data.image_size, data.image_size),
        "num_classes": 0,
        "mean": data.mean,
        "std": data.std,
        "crop_pct": data.image_size / data.eval_resize,
        "interpolation": "bilinear",  # as when measured
        "fixed_input_size": bool(network.pretrained_cfg.get("fixed_input_size")),
        "first_conv": network.pretrained_cfg.get("first_conv"),
        "classifier": network.pretrained_cfg.get("classifier"),
        "notes": [trained.origin],
    }
    save_for_hf(network, str(path), model_args=options or None, safe_serialization=True)


def _read_timm(trained: Trained, path: Path) -> Reader:
    import timm

    network: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0)
    return network.eval()


def _write_safetensors(trained: Trained, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in trained.encoder.state_dict().items()}
    save_file(tensors, path, metadata=_metadata(trained) | {"format": "pt"})


def _read_safetensors(trained: Trained, path: Path) -> Reader:
    from safetensors.torch import load_file

    encoder = untrained_encoder(trained.model, seed=1)
    fill(encoder, load_file(path), str(path))
    return encoder


def _write_onnx(trained: Trained, path: Path) -> None:
    missing = [package for package in ONNX_PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"onnx needs {' and '.join(missing)}; install with  pip install {' '.join(missing)} onnxruntime"
        )
    size_bytes = sum(tensor.nbytes for tensor in trained.encoder.state_dict().values())
    if size_bytes >= ONNX_MAX_BYTES:
        raise ValueError(
            f"{trained.model.encoder} has {size_bytes / 1e9:.1f} GB, allowed in an ONNX file: up to "
            f"{ONNX_MAX_BYTES / 1e9:.1f} GB; take --format {_others('onnx')}"
        )
    size = trained.data.image_size
    for name in ("onnxscript", "onnx_ir"):  # each pass over the graph would be told to whoever listens at INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    program = torch.onnx.export(
        trained.encoder,
        (torch.zeros(2, trained.model.in_channels, size, size),),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=ONNX_OPSET,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(_metadata(trained))
    program.save(path, external_data=False)


def _read_onnx(trained: Trained, path: Path) -> Reader | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_detectron2(trained: Trained, path: Path) -> None:
    name, model = trained.model.encoder, trained.model
    refusal = f"detectron2 has no {name} of this kind; allowed: a plain ResNet of torchvision, or another --format"
    if not model.is_plain or model.small_images or not is_of_torchvision(name):
        raise ValueError(refusal)
    try:
        named = to_detectron2(trained.encoder.state_dict())
    except ValueError as error:
        raise ValueError(f"{refusal} ({error})") from error
    torch.save({"model": named}, path)


def _read_detectron2(trained: Trained, path: Path) -> Reader:
    encoder = untrained_encoder(trained.model, seed=1)
    encoder.load_state_dict(from_detectron2(torch.load(path, weights_only=True)["model"]))
    return encoder


def _metadata(trained: Trained) -> dict[str, str]:
    """What a file says of its encoder, as texts: numbers and lists in JSON."""
    data, channels = trained.data, trained.model.channels
    return {
        "encoder": trained.model.encoder,
        "channels": json.dumps(channels),
        "small_images": json.dumps(trained.model.small_images),
        "stem_padding": json.dumps(trained.model.stem_padding),
        "image_size": json.dumps(data.image_size),
        "mean": json.dumps(data.mean),
        "std": json.dumps(data.std),
        "input": f"images (batch, {channels or 3}, image_size, image_size){'' if channels else ', RGB'}, float32: "
        "(values from 0 to 1 - mean) / std",
        "origin": trained.origin,
    }


def _others(name: str) -> str:
    return "|".join(other for other in FORMATS if other != name)


FORMATS = {
    "torchvision": Format(_write_torchvision, _read_torchvision, "torchvision"),
    "timm": Format(_write_timm, _read_timm, "timm"),
    "safetensors": Format(_write_safetensors, _read_safetensors, "safetensors"),
    "onnx": Format(_write_onnx, _read_onnx, "onnxruntime"),
    "detectron2": Format(_write_detectron2, _read_detectron2, "its names mapped back"),
}
