"""Pictures of what the features say: a map of validation images, and the training images nearest to some of them.

It measures nothing and stands beside the evaluations because it needs what they need: frozen features of both splits.
The result holds coordinates, labels and small pictures, bounded in size; jobs/reporting/pictures.py draws them.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from dataprep.beton.contract import Beton, BetonError, open_beton, read_manifest
from vicreg.config import DataConfig, require
from vicreg.evals.clip_pictures import played, spectrogram_of
from vicreg.evals.features import Features, Splits
from vicreg.evals.results import Measured
from vicreg.evals.settings.gallery import Config as Config
from vicreg.ranks import distributed

MAP_PX = 32
NEIGHBOUR_PX = 64
JPEG_QUALITY = 75  # 1,000 + 84 pictures of pure noise stay below 1.1 MB
PCA_DIMS = 50
TRAIN_BLOCK = 8192
PRESENT = 1  # in a label vector
NO_CLASS = -1


def fitted(config: Config, splits: Splits, given: Collection[str]) -> tuple[Config, list[str]]:
    """Settings that the data allow, but for those `given`, and what was changed."""
    num = len(splits.labels("train"))
    if "neighbours" in given or config.neighbours <= num:
        return config, []
    return replace(config, neighbours=num), [f"{num} neighbours instead of {config.neighbours}: there are no more"]


def evaluate(encoder: nn.Module, splits: Splits, config: Config) -> Measured:
    """No metrics; on rank 0 the map and the neighbours with their pictures, on other ranks nothing.

    Raises ValueError when there are fewer than 3 validation images or fewer training images than neighbours.
    """
    val, train = splits.features(encoder, "val"), splits.features(encoder, "train")
    require(len(val.labels) >= 3, splits.data.val, f"{len(val.labels)} images", "3 or more")
    require(config.neighbours <= len(train.labels), "neighbours", config.neighbours, f"up to {len(train.labels)}")
    on_map = _evenly(len(val.labels), config.images)
    rows = val.rows(on_map, splits.device)
    asked = _spread_over_classes(_classes(val.labels), config.queries)
    samples, cosines = _nearest(val.rows(asked, splits.device), train, config.neighbours)
    if distributed.rank() != 0:
        return Measured({})
    beton, train_beton = open_beton(splits.beton("val")), open_beton(splits.beton("train"))
    places = _place(rows.cpu().double().numpy(), config)
    shown = {"x": places[:, 0].tolist(), "y": places[:, 1].tolist()}
    labels, train_labels = _classes(val.labels), _classes(train.labels)[samples]
    pictures = [picture_of(beton, splits.data, sample, MAP_PX) for sample in on_map]
    shown_pairs = [
        place
        for query, found in zip(asked, samples, strict=True)
        for place in ((beton, query), *((train_beton, sample) for sample in found))
    ]
    pairs = [picture_of(of, splits.data, sample, NEIGHBOUR_PX) for of, sample in shown_pairs]
    sounds = [played(of, int(sample)) for of, sample in shown_pairs if of.pixels.is_sound]
    details = {
        "num_val": len(val.labels),
        "classes": _names(splits, np.concatenate([labels[on_map], labels[asked], train_labels.ravel()])),
        "map": {
            "samples": on_map.tolist(),
            "labels": labels[on_map].tolist(),
            **shown,
            "sheet": contact_sheet(pictures),
        },
        "neighbours": {
            "samples": asked.tolist(),
            "labels": labels[asked].tolist(),
            "train_samples": samples.tolist(),
            "train_labels": train_labels.tolist(),
            "cosines": [[round(value, 4) for value in line] for line in cosines.tolist()],
            "sheet": contact_sheet(pairs, columns=config.neighbours + 1),
            **({"sounds": sounds} if sounds else {}),
        },
    }
    return Measured({}, details)


def _evenly(available: int, wanted: int) -> NDArray[np.int64]:
    """So many of the numbers 0 to available - 1, evenly spread; all if there are fewer."""
    wanted = min(available, wanted)
    return ((np.arange(wanted) + 0.5) * available / wanted).astype(np.int64)


def _classes(labels: Tensor) -> NDArray[np.int64]:
    """A class for each image: where there are several the first, where there is none NO_CLASS."""
    if labels.ndim == 1:
        return labels.numpy().astype(np.int64)
    if not labels.shape[1]:
        return np.full(len(labels), NO_CLASS)
    present = labels.numpy() == PRESENT
    return np.where(present.any(axis=1), present.argmax(axis=1), NO_CLASS)


def _spread_over_classes(classes: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Images evenly chosen after sorting by class: of every class about as often as it is frequent."""
    order = np.argsort(classes, kind="stable")
    return order[_evenly(len(order), wanted)]


def _nearest(queries: Tensor, train: Features, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Training samples (queries, k), most similar first and of equals the lower number, and their cosines.

    Every rank compares its own training rows. In float64, rounded to float32: the order is then the same on any
    number of ranks.
    """
    unit = F.normalize(queries.double())
    cosines = torch.zeros(len(queries), len(train.labels), device=queries.device)
    for begin in range(0, len(train.values), TRAIN_BLOCK):
        rows = F.normalize(train.values[begin : begin + TRAIN_BLOCK].to(queries.device).double())
        start = train.first_row + begin
        cosines[:, start : start + len(rows)] = (unit @ rows.T).float()
    ordered = distributed.sum_over_ranks(cosines).sort(dim=1, descending=True, stable=True)
    return ordered.indices[:, :k].cpu().numpy(), ordered.values[:, :k].cpu().numpy()


def _place(rows: NDArray[np.float64], config: Config) -> NDArray[np.float64]:
    """Places (images, 2) within the unit square: the first 50 principal components, then t-SNE from the first two.

    One thread: scikit-learn's sums over threads depend on their number. Features without any spread lie in one point.
    """
    from sklearn.decomposition import PCA  # a second that whoever only asks for neighbours does not wait
    from sklearn.manifold import TSNE

    if not rows.std(axis=0).any():
        return np.full((len(rows), 2), 0.5)
    with threadpool_limits(1):
        components = PCA(min(PCA_DIMS, *rows.shape), random_state=config.seed).fit_transform(rows)
        perplexity = min(config.perplexity, (len(rows) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=config.seed).fit_transform(components)
    low = places.min(axis=0)
    extent = places.max(axis=0) - low
    unit: NDArray[np.float64] = (places - low + (extent.max() - extent) / 2).astype(np.float64) / extent.max()
    return unit.round(4)


def picture_of(beton: Beton, data: DataConfig, sample: np.int64, side: int) -> Image.Image:
    """The middle square of a sample's image; of sound its spectrogram."""
    if beton.pixels.is_sound:
        return spectrogram_of(beton, int(sample), side)
    picture = as_picture(beton.decode(int(sample)), data, beton.pixels.is_rgb)
    return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)


def as_picture(values: NDArray[Any], data: DataConfig, is_rgb: bool) -> Image.Image:
    """Pixels (H, W, C) as they are shown: of what is no RGB the first three channels as colours, or the first as grey.

    All pictures of a data set alike: black is two deviations below a channel's mean, white two above.
    """
    if is_rgb:
        return Image.fromarray(values)
    count = 3 if values.shape[2] >= 3 else 1
    mean, std = np.asarray(data.mean[:count]), np.asarray(data.std[:count])
    shares = np.clip((values[..., :count] / np.iinfo(values.dtype).max - mean) / (4 * std) + 0.5, 0, 1)
    shown = np.broadcast_to(np.rint(shares * 255).astype(np.uint8), (*values.shape[:2], 3))
    return Image.fromarray(np.ascontiguousarray(shown))


def contact_sheet(pictures: list[Image.Image], columns: int = 0) -> dict[str, Any]:
    """Square pictures of one size as one JPEG, row by row: a header each would double their size."""
    side, columns = pictures[0].width, columns or math.ceil(math.sqrt(len(pictures)))
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * side, number // columns * side))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=JPEG_QUALITY, optimize=True)
    jpeg = base64.b64encode(content.getvalue()).decode("ascii")
    return {"jpeg": jpeg, "side_px": side, "columns": columns, "rows": sheet.height // side}


def _names(splits: Splits, used: NDArray[np.int64]) -> dict[str, str]:
    """Names of these classes by their number, as the training beton's manifest has them; numbers where it has none."""
    try:
        names = [str(name) for name in read_manifest(splits.beton("train"))["classes"]]
    except (BetonError, KeyError, TypeError):
        names = []
    known = len(names) == splits.num_classes
    return {str(number): names[number] if known else str(number) for number in np.unique(used) if number != NO_CLASS}
