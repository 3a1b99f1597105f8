"""Encoders in half precision, on a GPU's terms: what they measure, when they are compiled, how many images pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.synthetic_beton import write_synthetic
from vicreg import half_precision
from vicreg.config import DataConfig, ModelConfig
from vicreg.evals import few_labels, knn, linear, semisup
from vicreg.evals.encoding import COMPILING_S, SAVED_SHARE, Encoding, compiling_pays
from vicreg.evals.features import Splits, open_splits
from vicreg.evals.framed_images import MAX_BATCH, HeldImages, fitting_batch
from vicreg.evals.results import Measured
from vicreg.exchange.encoder_file import untrained_encoder

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SIDE, NUM_TRAIN, NUM_VAL, NUM_CLASSES = 12, 600, 2000, 10
POINTS = 0.05
"""Of 2,000 images, one."""


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Ten patterns under so much noise that some images are taken for others'."""
    folder, random = tmp_path_factory.mktemp("patterns"), np.random.default_rng(0)
    coarse = random.uniform(80, 176, (NUM_CLASSES, 3, 3, 3))
    shown = coarse.repeat(4, 1).repeat(4, 2)
    for split, num in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        labels = np.arange(num) % NUM_CLASSES
        images = (shown[labels] + 15 * random.standard_normal((num, SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
        write_synthetic(folder / f"{split}.beton", [image.tobytes() for image in images], labels, SIDE, raw=True)
    paths = [str(folder / f"{split}.beton") for split in ("train", "val")]
    return DataConfig(*paths, image_size=SIDE, eval_resize=SIDE)


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    """A small one whose batch norms know nothing yet."""
    return untrained_encoder(ModelConfig("resnet10-narrow", small_images=True), seed=0)


Evaluate = Callable[[nn.Module, Splits], Measured]
PROTOCOLS: dict[str, Evaluate] = {
    "knn": lambda encoder, splits: knn.evaluate(encoder, splits, knn.Config((20,))),
    "few-labels": lambda encoder, splits: few_labels.evaluate(encoder, splits, few_labels.Config((NUM_TRAIN,))),
    "linear": lambda encoder, splits: linear.evaluate(
        encoder, splits, linear.Config(epochs=3, batch=100, lr=0.5, batch_norm=True, crop_scale=(0.9, 1.0), hflip_p=0.0)
    ),
    "semisup": lambda encoder, splits: semisup.evaluate(
        encoder,
        splits,
        semisup.Config(subset="", fraction=1.0, epochs=3, batch=100, lr_head=0.5, crop_scale=(0.9, 1.0), hflip_p=0.0),
    ),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bf16_measures_what_float32_measures(protocol: str, patterns: DataConfig, encoder: nn.Module) -> None:
    torch.set_num_threads(1)
    splits, evaluate = open_splits(patterns, CPU, 1), PROTOCOLS[protocol]
    exact = evaluate(encoder, splits).metrics
    half = evaluate(encoder, replace(splits, precision="bf16")).metrics
    last = [name for name in exact if name.startswith("top1") and not name.endswith("std")][-1]
    assert 90 < exact[last] <= 100
    assert abs(half[last] - exact[last]) <= POINTS + 1e-9


def test_half_precision_is_used_where_it_is_asked_for(encoder: nn.Module) -> None:
    images = torch.randn(4, 3, SIDE, SIDE)
    exact, half = Encoding(encoder, CPU, "float32")(images), Encoding(encoder, CPU, "bf16")(images)
    assert exact.dtype == half.dtype == torch.float32
    assert torch.equal(half, half.bfloat16().float())
    assert not torch.equal(exact, exact.bfloat16().float())
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.05)
    assert torch.equal(Encoding(encoder, CPU, "auto")(images), exact)
    doubled = nn.Conv2d(3, 2, 3, dtype=torch.float64)
    assert Encoding(doubled, CPU, "bf16").dtype == torch.float64  # weights that are more exact stay so


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 0), torch.float16), ((7, 5), torch.float16)]
    + [(capability, torch.bfloat16) for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0))],
)
def test_a_card_without_bf16_gets_fp16_and_says_so(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    half_precision.half_type.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with caplog.at_level(logging.INFO):
        assert half_precision.dtype_of("auto", GPU) == dtype
    assert ("Tesla T4 has no bf16: precision auto is fp16, with a scaler" in caplog.text) == (dtype == torch.float16)
    assert half_precision.dtype_of("float32", GPU) == torch.float32
    half_precision.half_type.cache_clear()


def test_compiling_pays_where_more_is_saved_than_it_takes() -> None:
    enough_s = COMPILING_S / SAVED_SHARE
    assert [compiling_pays(seconds) for seconds in (0, enough_s, 1.01 * enough_s)] == [False, False, True]


def test_as_many_images_pass_as_half_of_the_free_memory_holds() -> None:
    found = [fitting_batch(1e6, free, 128) for free in (0, int(5.1e8), int(5.2e8), 10**12)]
    assert found == [128, 128, 256, MAX_BATCH]


class Seen(nn.Module):
    """What passes, as it is."""

    num_features = 3 * SIDE * SIDE

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) to (B, 3 * S * S)."""
        return images.flatten(1)


def test_held_images_give_the_same_bits_and_are_decoded_once(
    patterns: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = open_splits(patterns, CPU, 1)
    right = splits.features(Seen(), "train").values
    held = replace(splits, held=HeldImages())
    assert torch.equal(held.features(Seen(), "train").values, right)
    monkeypatch.setattr("vicreg.evals.framed_images.centre_batches", None)
    assert torch.equal(replace(held).features(Seen(), "train").values, right)


def test_images_that_do_not_fit_are_decoded_again(patterns: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = open_splits(patterns, CPU, 1)
    needed = NUM_TRAIN * 3 * SIDE * SIDE
    for free, fits in ((4 * needed, True), (4 * needed - 1, False)):
        monkeypatch.setattr("vicreg.evals.framed_images.free_bytes", lambda device, free=free: free)
        held = HeldImages()
        replace(splits, held=held).features(Seen(), "train")
        assert bool(held._held) == fits
