"""Finding an image's captions among all captions, and a caption's image among all images, by the cosine of embeddings.

As VSE++ measures (official code, evaluation.py): recall at 1, 5 and 10 and the median rank, of an image that of the
best of its captions; of large sets all at once, and the mean over five folds of 1,000 images. A rank is 1 and how many
wrong ones are at least as similar, so ties count against. Cosines are made in float64 and rounded to float32, and every
rank counts for its own queries: the counts are the same on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dataprep.beton.contract import Beton, open_beton
from vicreg.data.captions import captions_of, require_captions
from vicreg.data.loaders import centre_batches
from vicreg.evals.features import Splits
from vicreg.evals.gallery import contact_sheet, picture_of
from vicreg.evals.results import CannotMeasure, Measured
from vicreg.evals.settings.retrieval import Config as Config
from vicreg.exchange.pair import Pair
from vicreg.ranks import distributed
from vicreg.views.captions import MAX_WORDS, PADDING, write_words
from vicreg.views.order import shard

QUERY_BLOCK = 512
PICTURE_PX = 96


@dataclass(frozen=True)
class _Found:
    """What is measured on: unit rows of images and captions, on every rank."""

    images: Tensor
    """float64 (N, D)."""
    captions: Tensor
    """float64 (M, D)."""
    image_of: Tensor
    """int64 (M,), ascending: the image of each caption."""

    def part(self, images: slice) -> _Found:
        """That of some images alone."""
        mine = (self.image_of >= images.start) & (self.image_of < images.stop)
        return _Found(self.images[images], self.captions[mine], self.image_of[mine] - images.start)


def evaluate(encoder: nn.Module, splits: Splits, config: Config) -> Measured:
    """Recalls in percent of the validation set, the same on every rank; on rank 0 what some queries find.

    CannotMeasure for an encoder of one branch, and for data without captions.
    """
    if not isinstance(encoder, Pair):
        raise CannotMeasure("retrieval is of a run that has learned from captions (--model.encoder-b)")
    beton = open_beton(splits.beton("val"))
    try:
        require_captions(beton)
    except ValueError as error:
        raise CannotMeasure(str(error)) from error
    found, texts = _embed(encoder, splits, beton)
    metrics, details = _measure(found, config), _medians(found)
    if len(found.images) >= config.folds * config.fold_images:
        size = config.fold_images
        folds = [_measure(found.part(slice(i * size, (i + 1) * size)), config) for i in range(config.folds)]
        name = f"_of_{size}"
        metrics |= {f"{key}{name}": float(np.mean([fold[key] for fold in folds])) for key in metrics}
    details |= {"num_images": len(found.images), "num_captions": len(texts)}
    if distributed.rank() == 0 and config.shown:
        details |= _shown(found, texts, beton, splits, config.shown)
    return Measured(metrics, details)


@torch.no_grad()
def _embed(pair: Pair, splits: Splits, beton: Beton) -> tuple[_Found, list[str]]:
    """Embeddings of all images and captions, computed by parts on the ranks, in batches that are the same on any."""
    pair.eval().to(splits.device)
    dtype = next(pair.parameters()).dtype
    texts, owners = [], []
    for sample in range(beton.num_samples):
        own = captions_of(beton, sample)
        texts += own
        owners += [sample] * len(own)

    def images(part: range) -> Iterator[Tensor]:
        batches = centre_batches(splits.data, beton.path, part, batch_size=splits.batch, workers=splits.workers)
        for pixels, _, _ in batches:
            yield pair.embed_images(splits.normalise(pixels).to(dtype))
            splits.heard()

    def captions(part: range) -> Iterator[Tensor]:
        for begin in range(part.start, part.stop, splits.batch):
            rows = np.empty((min(splits.batch, part.stop - begin), MAX_WORDS), np.int64)
            for row, text in zip(rows, texts[begin:], strict=False):
                write_words(row, text)
            longest = max(1, int((rows != PADDING).sum(1).max()))
            yield pair.embed_captions(torch.from_numpy(rows[:, :longest]).to(splits.device))
            splits.heard()

    units = [_all_rows(make, count, splits) for make, count in ((images, beton.num_samples), (captions, len(texts)))]
    return _Found(units[0], units[1], torch.tensor(owners, device=splits.device)), texts


def _all_rows(make: Any, count: int, splits: Splits) -> Tensor:
    """Unit rows (count, D) on every rank, of which each has made those of its own batches."""
    num_batches, ranks = -(-count // splits.batch), distributed.world_size()
    edges = [shard(num_batches, rank, ranks).start for rank in range(ranks)] + [num_batches]
    rows = [min(batch * splits.batch, count) for batch in edges]
    own = range(rows[distributed.rank()], rows[distributed.rank() + 1])
    made = list(make(own))
    width = torch.tensor(made[0].shape[1] if made else 0)
    dims = int(distributed.gather_rows(width[None]).max())
    part = torch.cat(made) if made else torch.empty(0, dims, device=splits.device)
    whole = distributed.gather_uneven_rows(part.float(), np.diff(rows).tolist())
    if not bool(torch.isfinite(whole).all()):
        raise CannotMeasure("embeddings are not all finite: the run has diverged")
    return F.normalize(whole.double())


def _ranks(queries: Tensor, others: Tensor, right: Tensor) -> Tensor:
    """How many wrong ones are at least as similar to each query as the best of the right ones (Q, others) bool."""
    cosines = (queries @ others.T).float()
    best = cosines.masked_fill(~right, -torch.inf).max(1).values
    return ((cosines >= best[:, None]) & ~right).sum(1)


def _places(found: _Found) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place, from 0, of what each image and each caption looks for; every rank counts a part of the queries."""
    places = []
    numbers = torch.arange(len(found.images), device=found.images.device)
    ways = (
        (found.images, found.captions, numbers, found.image_of),
        (found.captions, found.images, found.image_of, numbers),
    )
    for queries, others, own, theirs in ways:
        mine = shard(len(queries), distributed.rank(), distributed.world_size())
        counted = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        for begin in range(mine.start, mine.stop, QUERY_BLOCK):
            block = slice(begin, min(begin + QUERY_BLOCK, mine.stop))
            counted[block] = _ranks(queries[block], others, own[block, None] == theirs)
        places.append(distributed.sum_over_ranks(counted).cpu().numpy())
    return places[0], places[1]


def _measure(found: _Found, config: Config) -> dict[str, float]:
    """Recalls both ways in percent."""
    names = ("image_to_text", "text_to_image")
    return {
        f"{name}_r{k}": 100 * float((places < k).mean())
        for name, places in zip(names, _places(found), strict=True)
        for k in config.recalls
    }


def _medians(found: _Found) -> dict[str, Any]:
    """Median ranks, from 1, rounded down as in VSE++'s code."""
    names = ("image_to_text", "text_to_image")
    return {f"{n}_median_rank": int(np.median(p)) + 1 for n, p in zip(names, _places(found), strict=True)}


def _shown(found: _Found, texts: list[str], beton: Beton, splits: Splits, count: int) -> dict[str, Any]:
    """For some images the captions found first, and for the first caption of each the images."""
    chosen = np.unique(np.linspace(0, len(found.images) - 1, count).round().astype(np.int64))
    owners = found.image_of.cpu().numpy()
    captions = [int(np.flatnonzero(owners == image)[0]) for image in chosen]
    firsts, pictures = [], []
    for image in chosen:
        cosines = (found.images[image] @ found.captions.T).float()
        best = cosines.sort(descending=True, stable=True).indices[:5].tolist()
        firsts.append([{"text": texts[i][:300], "right": bool(owners[i] == image)} for i in best])
        pictures.append(picture_of(beton, splits.data, image, PICTURE_PX))
    asked = []
    for caption in captions:
        cosines = (found.captions[caption] @ found.images.T).float()
        nearest = cosines.sort(descending=True, stable=True).indices[:5].cpu().numpy()
        asked.append({"text": texts[caption][:300], "right": [bool(i == owners[caption]) for i in nearest]})
        pictures += [picture_of(beton, splits.data, i, PICTURE_PX) for i in nearest]
    sheet = contact_sheet(pictures, columns=5)
    return {"captions_found": firsts, "images_found": asked, "sheet": sheet}
