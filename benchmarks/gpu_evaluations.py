"""What surrounds pretraining on one GPU: evaluations in half precision, looking while learning, starting, the trial.

Part of `benchmarks/gpu.py`. Images are made up: nothing here depends on what they show.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.gpu_step import WARM_UP_STEPS, Sizes, free
from benchmarks.lars import wait
from benchmarks.synthetic_beton import write_synthetic
from vicreg import kernels
from vicreg.config import DataConfig, ModelConfig, Precision, PretrainConfig, TrainConfig
from vicreg.data.loaders import open_views
from vicreg.evals import knn, linear
from vicreg.evals.encoding import Encoding
from vicreg.evals.features import Splits, open_splits
from vicreg.evals.framed_images import HeldImages
from vicreg.method import TrainingData
from vicreg.methods import vicreg
from vicreg.model import build_model
from vicreg.training.trial import Trial

NUM_CONTENTS = 64
NUM_CLASSES = 10
SMALL_PX = 32
START_ARGUMENT = "--first-step"


def _betons(folder: Path, sizes: dict[str, int], side: int, raw: bool) -> DataConfig:
    """Training and validation betons of smooth images, as JPEGs or pixels."""
    random, contents = np.random.default_rng(0), []
    for _ in range(NUM_CONTENTS):
        coarse = random.integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=90)
        contents.append(image.tobytes() if raw else content.getvalue())
    for split, num in sizes.items():
        labels = np.arange(num, dtype=np.int64) % NUM_CLASSES
        write_synthetic(folder / f"{split}.beton", contents, labels, side, raw=raw)
    return DataConfig(str(folder / "train.beton"), str(folder / "val.beton"))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start_s = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start_s


def measure_linear(sizes: Sizes, num_images: int, device: torch.device) -> dict[str, float]:
    """Images a second of an epoch of the linear protocol in both precisions, and of what it consists of alone."""
    found: dict[str, float] = {}
    batch = min(256, num_images // 4)
    with tempfile.TemporaryDirectory() as folder:
        data = _betons(Path(folder), {"train": num_images, "val": batch}, sizes.photo_px, raw=False)
        data = replace(data, image_size=sizes.image_px, eval_resize=sizes.image_px * 8 // 7)
        encoder = build_model(ModelConfig(sizes.encoder, expander="8-8"))[0].eval().to(device)
        half: Precision = "auto" if device.type == "cuda" else "bf16"
        precisions: dict[str, Precision] = {"float32": "float32", "half": half}
        for name, precision in precisions.items():
            free(device)
            splits = replace(open_splits(data, device, 0), precision=precision)
            images = torch.randn(batch, 3, sizes.image_px, sizes.image_px, device=device)
            encoding = Encoding(encoder, device, splits.precision)
            for _ in range(WARM_UP_STEPS):
                encoding(images)
            forward_s = _seconds(lambda: [encoding(images) for _ in range(sizes.rounds)], device)  # noqa: B023
            found[f"{name}_forward_images_s"] = sizes.rounds * batch / forward_s
            config = linear.Config(epochs=1, batch=batch)
            taken_s = _seconds(lambda: linear.evaluate(encoder, splits, config), device)  # noqa: B023
            found[f"{name}_images_s"] = (num_images + batch) / taken_s
        found["decoded_images_s"] = num_images / _seconds(lambda: _decode(data, batch, device), device)
    return found


def _decode(data: DataConfig, batch: int, device: torch.device) -> None:
    """An epoch of the protocol's crops, and nothing done with them."""
    view = linear.Config().view()
    options: dict[str, Any] = {"seed": 0, "global_batch": batch, "rank": 0, "world_size": 1, "workers": 0}
    with closing(open_views(data, Path(data.train), (view,), device=device, **options)) as loader:
        for each in loader.batches(0):
            each.to(device)


def measure_online(num_train: int, num_val: int, encoder: str, device: torch.device) -> dict[str, float]:
    """Seconds of the first look at the representation, which decodes, and of every later one; and of float32."""
    network = build_model(ModelConfig(encoder, small_images=True, expander="8-8"))[0].eval().to(device)
    with tempfile.TemporaryDirectory() as folder:
        data = _betons(Path(folder), {"train": num_train, "val": num_val}, SMALL_PX, raw=True)
        splits = open_splits(replace(data, image_size=SMALL_PX, eval_resize=SMALL_PX), device, 0)
        look = replace(splits, precision="auto", held=HeldImages())
        found = {name: _look(network, look, device) for name in ("first_s", "later_s")}
        return found | {"decoding_in_float32_s": _look(network, splits, device)}


def _look(encoder: nn.Module, splits: Splits, device: torch.device) -> float:
    fresh = replace(splits)  # without the features of the look before
    return _seconds(lambda: knn.evaluate(encoder, fresh, knn.Config((20,))), device)


def small_config(encoder: str, batch: int, **train: Any) -> PretrainConfig:
    """A run on small images."""
    return PretrainConfig(
        vicreg.Config(),
        DataConfig(image_size=SMALL_PX, eval_resize=SMALL_PX),
        model=ModelConfig(encoder, small_images=True, expander="2048-2048-2048"),
        train=TrainConfig(global_batch=batch, **train),
    )


def measure_forms(encoder: str, batch: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of a step by the trial of a long run."""
    return Trial(small_config(encoder, batch), device, TrainingData(50_000, NUM_CLASSES), 10**7).step_ms()


def measure_start(encoder: str, batch: int) -> dict[str, float]:
    """Seconds from a process's start to the end of its first compiled step, without and with compiled code kept."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = {kernels.COMPILED_VARIABLE: folder, kernels.TRITON_VARIABLE: str(Path(folder) / "triton")}
        root = str(Path(__file__).resolve().parents[1])
        environment = os.environ | kept | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, __file__, START_ARGUMENT, encoder, str(batch)]
        for name in ("cold_s", "warm_s"):
            start_s = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found[name] = time.perf_counter() - start_s
    return found


def _first_step(encoder: str, batch: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = small_config(encoder, batch, compile=True, joint_views=True)
    Trial(config, device, TrainingData(50_000, NUM_CLASSES), 1).first_step(config)


if __name__ == "__main__":
    _first_step(sys.argv[2], int(sys.argv[3]))
