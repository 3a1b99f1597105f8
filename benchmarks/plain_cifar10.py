"""The CIFAR-10 recipe as one would write it in an afternoon: the yardstick for "learns as well", in one plain file.

Part of `benchmarks/cifar10.py`. Nothing of `vicreg/` is in it: torchvision's network and transforms on Pillow images,
torch's DataLoader, the official formula with a D x D covariance, LARS one parameter at a time, k-NN in a few lines.
Settings: solo-learn's scripts/pretrain/cifar/vicreg.yaml. The seed gives order and transforms, epoch by epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WARM_UP_START = 3e-5


@dataclass(frozen=True)
class Settings:
    """Solo-learn's, but for a smaller network and shorter run where one is wanted."""

    epochs: int = 1000
    batch: int = 256
    lr: float = 0.3
    head_lr: float = 0.1
    weight_decay: float = 1e-4
    warm_up_epochs: float = 10.0
    width: int = 64
    """Channels of the first stage: 64 for a ResNet-18."""
    stem_padding: int = 2
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    expander: tuple[int, ...] = (2048, 2048, 2048)
    every_epochs: int = 10
    seed: int = 0
    workers: int = 0


class _Pairs(Dataset[tuple[Tensor, Tensor, int]]):
    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], side: int) -> None:
        self.images, self.labels = images, labels
        jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(side, (0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.RandomApply([jitter], 0.8),
                transforms.RandomGrayscale(0.2),
                transforms.RandomApply([transforms.Lambda(ImageOps.solarize)], 0.1),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, int]:
        image = Image.fromarray(self.images[place])
        return self.transform(image), self.transform(image), int(self.labels[place])


def _network(settings: Settings) -> tuple[nn.Module, nn.Module, int]:
    width = settings.width
    encoder: Any = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, list(settings.blocks))
    encoder.inplanes = width
    encoder.conv1 = nn.Conv2d(3, width, 3, padding=settings.stem_padding, bias=False)
    encoder.bn1 = nn.BatchNorm2d(width)
    encoder.maxpool, encoder.fc = nn.Identity(), nn.Identity()
    for number, count in enumerate(settings.blocks):
        stride = 1 if number == 0 else 2
        layer = encoder._make_layer(torchvision.models.resnet.BasicBlock, width * 2**number, count, stride)
        setattr(encoder, f"layer{number + 1}", layer)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    features, layers = width * 2 ** (len(settings.blocks) - 1), []
    before = features
    for after in settings.expander[:-1]:
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        before = after
    return encoder, nn.Sequential(*layers, nn.Linear(before, settings.expander[-1])), features


def _loss(a: Tensor, b: Tensor) -> Tensor:
    """Solo-learn's: the variances of both views added."""
    total = 25 * functional.mse_loss(a, b)
    for z in (a, b):
        total = total + 25 * functional.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean()
        centred = z - z.mean(0)
        covariance = centred.T @ centred / (len(z) - 1)
        total = total + (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / z.shape[1]
    return total


@torch.no_grad()
def _lars(parameters: list[nn.Parameter], momenta: list[Tensor], lr: float, weight_decay: float) -> None:
    """Solo-learn's, with clipping."""
    for parameter, momentum in zip(parameters, momenta, strict=True):
        gradient = parameter.grad
        assert gradient is not None
        if parameter.ndim > 1:
            weight, slope = float(parameter.norm()), float(gradient.norm())
            factor = 1.0
            if weight > 0 and slope > 0 and lr > 0:
                factor = min(0.02 * weight / (slope + weight * weight_decay + 1e-8) / lr, 1.0)
            gradient = (gradient + weight_decay * parameter) * factor
        momentum.mul_(0.9).add_(gradient)
        parameter.sub_(lr * momentum)


def _share_of_lr(step: int, steps: int, warm_up: float, lr: float) -> float:
    if step < warm_up:
        return (WARM_UP_START + (lr - WARM_UP_START) * step / warm_up) / lr
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


@torch.no_grad()
def _features(encoder: nn.Module, images: NDArray[np.uint8], device: torch.device) -> Tensor:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    encoder.eval()
    parts = []
    for begin in range(0, len(images), 500):
        pixels = torch.from_numpy(images[begin : begin + 500]).to(device).permute(0, 3, 1, 2).float() / 255
        parts.append(encoder((pixels - mean) / std))
    encoder.train()
    return torch.cat(parts)


def _neighbours_top1(train: Tensor, labels: Tensor, val: Tensor, truth: Tensor) -> float:
    train, right = functional.normalize(train), 0
    for begin in range(0, len(val), 500):
        similarity, nearest = (functional.normalize(val[begin : begin + 500]) @ train.T).topk(20)
        votes = torch.zeros(len(nearest), int(labels.max()) + 1, device=val.device)
        votes.scatter_add_(1, labels[nearest], (similarity / 0.1).exp())
        right += int((votes.argmax(1) == truth[begin : begin + 500]).sum())
    return 100 * right / len(val)


def train(
    settings: Settings,
    splits: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]],
    state_file: Path,
    device: torch.device,
    go_on: Callable[[], bool],
) -> list[dict[str, float]]:
    """Train while `go_on()`, epoch by epoch, from `state_file` if it is there; returns what was measured, so far."""
    torch.manual_seed(settings.seed)
    encoder, expander, num_features = _network(settings)
    (images, labels), (val_images, val_labels) = splits["train"], splits["val"]
    head = nn.Linear(num_features, int(labels.max()) + 1)
    modules = nn.ModuleList([encoder, expander, head]).to(device)
    parameters = [*encoder.parameters(), *expander.parameters()]
    groups = ((parameters, settings.lr, settings.weight_decay), (list(head.parameters()), settings.head_lr, 0.0))
    momenta = [[torch.zeros_like(p) for p in group] for group, _, _ in groups]
    measured: list[dict[str, float]] = []
    epoch, elapsed_s = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        modules.load_state_dict(state["modules"])
        momenta, epoch = state["momenta"], state["epoch"]
        measured, elapsed_s = state["measured"], state["elapsed_s"]
    steps_per_epoch = len(images) // settings.batch
    steps, scale = settings.epochs * steps_per_epoch, settings.batch / 256
    truth, val_truth = torch.from_numpy(labels).to(device), torch.from_numpy(val_labels).to(device)
    while epoch < settings.epochs and go_on():
        start_s = time.monotonic()
        torch.manual_seed(settings.seed * 1_000_003 + epoch)
        pairs = _Pairs(images, labels, images.shape[1])
        batches = DataLoader(pairs, settings.batch, shuffle=True, drop_last=True, num_workers=settings.workers)
        for number, (view_a, view_b, classes) in enumerate(batches):
            share = _share_of_lr(
                epoch * steps_per_epoch + number, steps, settings.warm_up_epochs * steps_per_epoch, settings.lr * scale
            )
            modules.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                of_a, of_b = encoder(view_a.to(device)), encoder(view_b.to(device))
                a, b = expander(of_a), expander(of_b)
            classes = classes.to(device)
            logits = [head(features.detach().float()) for features in (of_a, of_b)]
            online = sum(functional.cross_entropy(each, classes) for each in logits) / 2
            (_loss(a.float(), b.float()) + online).backward()
            for (group, lr, weight_decay), kept in zip(groups, momenta, strict=True):
                _lars(group, kept, share * lr * scale, weight_decay)
        epoch += 1
        if epoch % settings.every_epochs == 0 or epoch == settings.epochs:
            train_features, val_features = (_features(encoder, each, device) for each in (images, val_images))
            online_top1 = 100 * float((head(val_features).argmax(1) == val_truth).float().mean())
            knn_top1 = _neighbours_top1(train_features, truth, val_features, val_truth)
            measured.append({"epoch": epoch, "online_top1": online_top1, "knn_top1": knn_top1})
            measured[-1]["elapsed_s"] = elapsed_s + time.monotonic() - start_s
        elapsed_s += time.monotonic() - start_s
    state = {
        "modules": modules.state_dict(),
        "momenta": momenta,
        "epoch": epoch,
        "measured": measured,
        "elapsed_s": elapsed_s,
    }
    state_file.parent.mkdir(parents=True, exist_ok=True)
    beside = state_file.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(state_file)
    return measured
