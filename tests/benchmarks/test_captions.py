"""The plain program of VSE++ beside ours: from the same weights the same loss and gradient; a small epoch of both."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from benchmarks import captions, plain_captions
from vicreg import networks
from vicreg.config import PretrainConfig
from vicreg.data.vocabulary import known_words
from vicreg.method import UNKNOWN_DATA, Inputs, Progress
from vicreg.networks.vse_pp import VsePp
from vicreg.views.captions import MAX_WORDS, word_number, write_words

ANIMALS, COLOURS = ("cat", "dog", "hen", "owl"), {"black": 0, "grey": 128, "white": 255}
SAID = [f"A {colour} {animal}." for colour in COLOURS for animal in ANIMALS]
BATCH = 4
WORDS = ("a", "is", "there", *COLOURS, *ANIMALS)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> captions.Captions:
    """Twelve photos of two captions each, of which eight are learned from."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    lines = ["image,caption"]
    noise = np.random.default_rng(0)
    for number, text in enumerate(SAID):
        pixels = noise.integers(0, 40, (48, 48, 3)) + COLOURS[text.split()[1]] * 200 // 255
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number}.jpg")
        lines += [f"{number}.jpg,{text}", f"{number}.jpg,There is {text.lower()}"]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    return captions.Captions(folder, folder / "out", epochs=1, seeds=1, num_val=4)


@pytest.fixture
def config(options: captions.Captions, monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    """Of our run."""
    monkeypatch.setattr(captions, "BATCH", BATCH)
    assert options.out is not None
    return captions.configuration("vse_pp", captions.betons(options, options.out), options.epochs, 0)


def _loss_in_loops(images: Tensor, texts: Tensor, margin: float) -> float:
    """Equation 6 of VSE++, row by row in float64."""
    a, b = (rows.detach().double().numpy() for rows in (images, texts))
    total = 0.0
    for i in range(len(a)):
        others = [j for j in range(len(a)) if j != i]
        total += max(0.0, *(margin + a[i] @ b[j] - a[i] @ b[i] for j in others))
        total += max(0.0, *(margin + a[j] @ b[i] - a[i] @ b[i] for j in others))
    return total


def _with_our_weights(plain: plain_captions.Vse, ours: VsePp, words: list[int]) -> None:
    """Put them in; our expander is the plain program's last layer, and words stand in another order."""
    of_images = {f"fc.{name}": value for name, value in ours.expander.state_dict().items()}
    plain.network.load_state_dict(ours.encoder.state_dict() | of_images)
    plain.captions.gru.load_state_dict(ours.encoder_b.gru.state_dict())
    plain.captions.last.load_state_dict(ours.expander_b.state_dict())
    rows = {word: 1 + words.index(word_number(word)) for word in plain.captions.numbers}
    places = torch.tensor([0, *rows.values()])
    with torch.no_grad():
        plain.captions.embedding.weight.copy_(ours.encoder_b.embedding.weight[places])


def _norms(*modules: nn.Module) -> list[float]:
    """Of the gradient of each parameter, in an order that does not depend on names."""
    return sorted(float(one.grad.norm()) for module in modules for one in module.parameters() if one.grad is not None)


def test_from_the_same_weights_both_programs_have_the_same_loss_and_gradient(config: PretrainConfig) -> None:
    torch.manual_seed(0)
    ours = networks.build(config, UNKNOWN_DATA).train()
    assert isinstance(ours, VsePp)
    words = known_words(Path(config.data.train), config.model.min_word_count)
    ours.encoder_b.know(words)
    settings = captions.plain_settings(config)
    known = [word for word in WORDS if word_number(word) in words]
    plain = plain_captions.Vse(known * settings.min_word_count, settings).train()
    _with_our_weights(plain, ours, list(words))

    pixels = torch.randn(len(SAID), 3, captions.SIDE_PX, captions.SIDE_PX)
    rows = np.empty((len(SAID), MAX_WORDS), np.int64)
    for row, text in zip(rows, SAID, strict=True):
        write_words(row, text)
    unknown = torch.zeros(len(SAID), dtype=torch.int64)
    loss = ours(Inputs([pixels, torch.from_numpy(rows)], unknown, unknown), Progress(0, 1, 1))["loss"]
    images, said = plain.images(pixels), plain.captions(SAID)
    plain_loss = plain_captions._loss(images, said, settings.margin)
    assert float(plain_loss.detach()) == pytest.approx(_loss_in_loops(images, said, settings.margin), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(float(plain_loss.detach()), rel=1e-5)
    loss.backward()
    plain_loss.backward()
    assert _norms(ours) == pytest.approx(_norms(plain), rel=1e-3, abs=1e-5)


def test_an_epoch_of_each_is_measured_under_the_same_names(options: captions.Captions, config: PretrainConfig) -> None:
    assert options.out is not None
    ours = captions.learned(config, options.out / "vse_pp-0")
    plainly = captions.plainly_learned(config, options.photos, options.num_val)
    assert ours.keys() == plainly.keys()
    assert ours["image_to_text_r10"] == plainly["image_to_text_r10"] == 100.0  # of 8 captions
    rows = {title: [ours, plainly] for title in captions.ROWS.values()}
    shown = io.StringIO()
    Console(file=shown, width=80).print(captions.table(options, rows, dict.fromkeys(rows, 12.3)))
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert all(any(line.strip().startswith(title) and line.endswith("12.3") for line in lines) for title in rows)


def test_recalls_count_ties_against() -> None:
    scores = np.array([[0.9, 0.1, 0.9, 0.2], [0.3, 0.8, 0.5, 0.8]], np.float32)
    found = plain_captions.recalls(scores, np.array([0, 0, 1, 1]))
    assert found["image_to_text_r1"] == 0.0  # 0.9 and 0.8 of another's are as near
    assert found["text_to_image_r1"] == 50.0
    assert found["image_to_text_median_rank"] == 2
