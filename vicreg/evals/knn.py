"""k nearest neighbours: a validation image gets the class that most of the training images with similar features have.

Exact: every pair of images is compared by the cosine of their features, in blocks of bounded memory. A rank compares
its own training rows with all validation images, then the ranks' best candidates are merged. Neighbours are ordered by
similarity and, where that is equal, by their number in the training beton. Similarities are computed in float64 and
rounded to float32: what a matrix product's blocking does to the last bits then no longer shows, and the counts are the
same on any number of ranks.

What it takes for Q validation images, D features and the k nearest, whatever the number of training images: on a
device less than 16 Q D + 32 Q k bytes and 1 GB for the blocks (ImageNet and a ResNet-50: 1.6 GB measured on one rank),
on the host 4 bytes per feature of a training image, shared among the ranks (10.5 GB). ImageNet's products are 2.6e14
operations: by their data sheets seconds on GPUs with fast float64 (A100, H100), minutes on others; on one CPU core an
hour and three quarters, from the measured rate of a pair of blocks. Products in float32, their best compared again in
float64, would save no more than a third of that, and elsewhere less than the features take to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vicreg.evals.features import Features, Splits
from vicreg.evals.kept_parts import KeptState
from vicreg.evals.results import CannotMeasure, Measured
from vicreg.evals.settings.knn import Config as Config
from vicreg.ranks import distributed

TRAIN_BLOCK = 8192
QUERY_BLOCK = 1024
_LOW_32 = 0xFFFFFFFF


def fitted(config: Config, splits: Splits, given: Collection[str]) -> tuple[Config, list[str]]:
    """Settings that the data allow, but for those `given`, and what was changed."""
    num = len(splits.labels("train"))
    fits = tuple(k for k in config.neighbours if k <= num)
    if "neighbours" in given or fits == config.neighbours:
        return config, []
    fits = fits or (max(1, num // 2),)
    said = f"{', '.join(map(str, fits))} neighbours instead of {', '.join(map(str, config.neighbours))}"
    return replace(config, neighbours=fits), [f"{said}, for {num} training images"]


def evaluate(encoder: nn.Module, splits: Splits, config: Config) -> Measured:
    """Top-1 accuracy in percent for every number of neighbours and way to vote; the same on every rank.

    Raises CannotMeasure when more neighbours are asked for than there are training images.
    """
    splits.require_multi_label(False, "knn")
    val = splits.features(encoder, "val")
    train = splits.features(encoder, "train")
    largest = max(config.neighbours)
    if largest > len(train.labels):
        raise CannotMeasure(f"neighbours is {largest}, allowed: up to the {len(train.labels)} training images")

    queries = F.normalize(val.all_rows(splits.device).double())
    belongs_to: dict[str, object] = {"knn": largest, "features": [train.belongs_to, val.belongs_to]}
    keys = _nearest_own(queries, train, largest, splits.heard, KeptState(splits.parts, belongs_to))
    labels = train.labels.to(splits.device)
    correct = {(k, vote): 0 for k in config.neighbours for vote in config.votes}
    for begin in range(0, len(queries), QUERY_BLOCK):
        block = slice(begin, begin + QUERY_BLOCK)
        similarities, samples = _merge(keys[block], largest)
        truth = val.labels[block].to(splits.device)
        for k, vote in correct:
            weights = (similarities[:, :k].double() / config.temperature).exp()
            if vote == "unweighted":
                weights = torch.ones_like(weights)
            voted = _vote(labels[samples[:, :k]], weights, splits.num_classes)
            correct[k, vote] += int((voted == truth).sum())
    plain = {"weighted": "", "unweighted": "_unweighted"}
    return Measured({f"top1_{k}_neighbours{plain[vote]}": 100 * n / len(queries) for (k, vote), n in correct.items()})


def _nearest_own(queries: Tensor, train: Features, k: int, heard: Callable[[], None], kept: KeptState) -> Tensor:
    """Keys (num_queries, up to k) of the nearest among this rank's training rows, nearest first."""
    first, best = kept.load() or (0, torch.empty((len(queries), 0), dtype=torch.int64))
    best = best.to(queries.device)
    for begin in range(first, len(train.values), TRAIN_BLOCK):
        rows = F.normalize(train.values[begin : begin + TRAIN_BLOCK].to(queries.device).double())
        samples = torch.arange(len(rows), device=queries.device) + (train.first_row + begin)
        parts = []
        for start in range(0, len(queries), QUERY_BLOCK):
            block = slice(start, start + QUERY_BLOCK)
            candidates = torch.cat([best[block], _key(queries[block] @ rows.T, samples)], dim=1)
            parts.append(candidates.topk(min(k, candidates.shape[1])).values)
            heard()
        best = torch.cat(parts)
        kept.keep_if_due(min(begin + TRAIN_BLOCK, len(train.values)), best)
    missing = k - best.shape[1]
    return F.pad(best, (0, missing), value=torch.iinfo(torch.int64).min)


def _key(similarities: Tensor, samples: Tensor) -> Tensor:
    """Integers that order pairs by similarity (high 32 bits), then by the lower sample number (low 32 bits)."""
    bits = (similarities.float() + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 makes -0.0 equal to 0.0
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)  # negative floats grow with falling magnitude
    return (ordered << 32) | (_LOW_32 - samples)


def _merge(keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and training samples (queries, k) of the nearest of all ranks, from every rank's own nearest."""
    gathered = distributed.gather_rows(keys).view(distributed.world_size(), *keys.shape)
    best = gathered.transpose(0, 1).flatten(1).topk(k).values
    ordered, samples = best >> 32, _LOW_32 - (best & _LOW_32)
    bits = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).to(torch.int32)
    return bits.view(torch.float32), samples


def _vote(labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """The class with the most votes; added neighbour after neighbour, so that sums do not depend on scheduling."""
    votes = torch.zeros((len(labels), num_classes), dtype=torch.float64, device=labels.device)
    queries = torch.arange(len(labels), device=labels.device)
    for neighbour in range(labels.shape[1]):
        votes[queries, labels[:, neighbour]] += weights[:, neighbour]
    return votes.argmax(dim=1)
