"""VSE++ as one would write it in an afternoon: the yardstick for "learns as well" of captions, in one plain file.

Part of `benchmarks/captions.py`. Nothing of `vicreg/` is in it: torchvision's network and transforms on Pillow images,
a dictionary of words, packed sequences, the hinge on the hardest negatives as the paper writes it, ranks counted one
query at a time. Settings: those of `benchmarks/captions.py`.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torchvision import transforms

Captioned = tuple[Path, Sequence[str]]
"""A file of an image, and what is said of it."""


@dataclass(frozen=True)
class Settings:
    """As `benchmarks/captions.py` has them."""

    epochs: int
    batch: int
    side_px: int
    crop_scale: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    word_width: int
    state: int
    """Of the GRU, and so the width of what is compared."""
    min_word_count: int
    margin: float
    lr: float
    weight_decay: float
    warmup_epochs: float
    final_lr_ratio: float
    seed: int = 0


class _Captions(nn.Module):
    """Word embedding and a GRU, whose last state goes through a linear layer."""

    def __init__(self, captions: Sequence[str], settings: Settings) -> None:
        super().__init__()
        counts = Counter(word for caption in captions for word in _words(caption))
        known = sorted(word for word, count in counts.items() if count >= settings.min_word_count)
        self.numbers = {word: number for number, word in enumerate(known, 1)}
        self.embedding = nn.Embedding(1 + len(known), settings.word_width)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.gru = nn.GRU(settings.word_width, settings.state, batch_first=True)
        self.last = _last(settings.state, settings.state)

    def forward(self, captions: Sequence[str]) -> Tensor:
        rows = [torch.tensor([self.numbers.get(word, 0) for word in _words(caption)]) for caption in captions]
        lengths = torch.tensor([len(row) for row in rows])
        words = self.embedding(pad_sequence(rows, batch_first=True))
        _, last = self.gru(pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False))
        return functional.normalize(self.last(last[0]))


class Vse(nn.Module):
    """Images and captions to vectors of length 1."""

    def __init__(self, captions: Sequence[str], settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.captions = _Captions(captions, settings)
        self.network = _network(settings.state)

    def images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) to (B, D)."""
        return functional.normalize(self.network(pixels))


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:'[a-z0-9]+)*", caption.lower())


def _network(width: int) -> nn.Module:
    """The narrow ResNet of four blocks, and a linear layer with batch norm in the place of its classifier."""
    block = torchvision.models.resnet.BasicBlock
    network: Any = torchvision.models.ResNet(block, [1, 1, 1, 1])
    network.inplanes = 16
    network.conv1, network.bn1 = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(16)
    for number in range(4):
        layer = network._make_layer(block, 16 * 2**number, 1, 1 if number == 0 else 2)
        setattr(network, f"layer{number + 1}", layer)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    network.fc = _last(128, width)
    made: nn.Module = network
    return made


def _last(features: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, width, bias=False), nn.BatchNorm1d(width, affine=False))


def _loss(images: Tensor, captions: Tensor, margin: float) -> Tensor:
    """Both ways the hinge on the hardest negative, summed over the batch."""
    scores = images @ captions.T
    own = scores.diagonal().view(-1, 1)
    wrong = 1 - torch.eye(len(scores))
    of_images = ((margin + scores - own).clamp(min=0) * wrong).max(1).values
    of_captions = ((margin + scores - own.T).clamp(min=0) * wrong).max(0).values
    return of_images.sum() + of_captions.sum()


def train(settings: Settings, images: Sequence[Captioned]) -> Vse:
    """Every image once an epoch, with one of its captions."""
    torch.manual_seed(settings.seed)
    chance = random.Random(settings.seed)
    model = Vse([caption for _, captions in images for caption in captions], settings)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(settings.side_px, settings.crop_scale, interpolation=Image.Resampling.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(settings.mean, settings.std),
        ]
    )
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay)
    per_epoch = len(images) // settings.batch
    steps, warm_up = settings.epochs * per_epoch, settings.warmup_epochs * per_epoch

    def share_of_lr(step: int) -> float:
        if step < warm_up:
            return step / warm_up
        height = 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))
        return height + settings.final_lr_ratio * (1 - height)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_lr)
    model.train()
    for _ in range(settings.epochs):
        order = torch.randperm(len(images)).tolist()
        for begin in range(0, per_epoch * settings.batch, settings.batch):
            chosen = [images[place] for place in order[begin : begin + settings.batch]]
            pixels = torch.stack([transform(_opened(path)) for path, _ in chosen])
            captions = [chance.choice(texts) for _, texts in chosen]
            loss = _loss(model.images(pixels), model.captions(captions), settings.margin)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def _opened(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


@torch.no_grad()
def measured(model: Vse, images: Sequence[Captioned]) -> dict[str, float]:
    """Recalls in percent and median ranks, both ways, under the names of the suite's evaluation."""
    model.eval()
    settings = model.settings
    transform = transforms.Compose(
        [
            transforms.Resize(settings.side_px),
            transforms.CenterCrop(settings.side_px),
            transforms.ToTensor(),
            transforms.Normalize(settings.mean, settings.std),
        ]
    )
    pixels = [transform(_opened(path)) for path, _ in images]
    of_images = torch.cat([model.images(torch.stack(pixels[i : i + 100])) for i in range(0, len(pixels), 100)])
    captions = [caption for _, texts in images for caption in texts]
    owners = np.array([number for number, (_, texts) in enumerate(images) for _ in texts])
    of_captions = torch.cat([model.captions(captions[i : i + 100]) for i in range(0, len(captions), 100)])
    return recalls((of_images @ of_captions.T).numpy(), owners)


def recalls(scores: NDArray[np.float32], owners: NDArray[np.int64]) -> dict[str, float]:
    """Of the scores (images, captions), where `owners` (captions,) says whose each caption is; ties count against."""
    to_text = []
    for row, image in zip(scores, range(len(scores)), strict=True):
        right = row[owners == image].max()
        to_text.append(int((row[owners != image] >= right).sum()))
    to_image = []
    for column, image in zip(scores.T, owners, strict=True):
        to_image.append(int((np.delete(column, image) >= column[image]).sum()))
    found: dict[str, float] = {}
    for way, places in (("image_to_text", to_text), ("text_to_image", to_image)):
        found |= {f"{way}_r{k}": 100 * float(np.mean(np.array(places) < k)) for k in (1, 5, 10)}
        found[f"{way}_median_rank"] = int(np.median(places)) + 1
    return found
