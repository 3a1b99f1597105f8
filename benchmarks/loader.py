"""Reading training data, side by side: this suite's loader, FFCV's pipelines, the official torchvision pipeline.

`python benchmarks/loader.py PHOTOS` takes a folder of class folders with JPEGs (written first at 500 px) or a beton.
An image counts once for its pair of 224 px views. Every contestant lives in a process of its own, with as many workers
as the others, and reads the same beton from the page cache; they run in turns, and the median over the rounds is
printed beside the targets.
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import tyro
from PIL import Image, ImageFilter, ImageOps
from rich.console import Console
from rich.table import Table
from torchvision import transforms

from benchmarks.ratios import Ratio, print_ratios
from dataprep.beton.contract import open_beton
from dataprep.sources import class_folders as sources
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from vicreg.config import DataConfig, ViewConfig, each_view, official_views
from vicreg.data.batches import Sampling
from vicreg.data.loaders import BetonViews
from vicreg.views.augment import augment

SIZE = 224
BATCH = 64
MIN_IMAGES = 1500
"""A round takes at least this many images: the set is repeated if it is smaller."""
CPU = torch.device("cpu")
BICUBIC = transforms.InterpolationMode.BICUBIC
Epoch = Callable[[int], int]
"""One pass over the images with this number; returns how many images it was."""


@dataclass(frozen=True)
class Loader:
    """Measure loaders on photos."""

    photos: tyro.conf.Positional[Path]
    """Folder with <class>/<photos>, or a beton of JPEGs."""
    rounds: int = 3
    """How often each loader runs."""
    workers: int = 2
    """Threads or processes of every loader."""


def _samples(beton: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    num = open_beton(beton).num_samples
    samples = np.tile(np.arange(num), -(-MIN_IMAGES // num))
    return samples[: len(samples) // BATCH * BATCH]


def _drain(batches: Iterator[Any], size: Callable[[Any], int]) -> int:
    return sum(size(batch) for batch in batches)


def limit(beton: Path, workers: int) -> Epoch:
    """Nothing but FFCV's own decoding function, in threads."""
    from ffcv.libffcv import ctypes_imdecode

    opened, samples = open_beton(beton), _samples(beton)
    address = opened.memory.ctypes.data

    def decode(part: list[int]) -> None:
        out = np.empty(int(opened.heights.max()) * int(opened.widths.max()) * 3, np.uint8)
        for sample in part:
            size = int(opened.heights[sample]), int(opened.widths[sample])
            source = address + int(opened.pointers[sample])
            ctypes_imdecode(source, int(opened.sizes[sample]), *size, out.ctypes.data, *size, 0, 0, 1, 1, False, False)

    def epoch(_: int) -> int:
        with ThreadPoolExecutor(workers) as executor:
            list(executor.map(decode, np.array_split(samples, 8 * workers)))
        return len(samples)

    return epoch


def ours(beton: Path, workers: int, path: str) -> Epoch:
    """This suite's loader: shipping planes of decoded images, cropping in its threads, or augmenting here as well."""
    config = DataConfig(image_size=SIZE)
    sampling = Sampling(_samples(beton), each_view(official_views(), SIZE), 0, BATCH, on_cpu=path != "decoded")
    loader = BetonViews(open_beton(beton), sampling, config, device=CPU, workers=workers)

    def augmented(number: int) -> int:
        count = 0
        for batch in loader.batches(number):
            for views, plan in zip(batch.views, batch.colour, strict=True):
                augment(views, plan, config.mean, config.std)
            count += len(batch.samples)
        return count

    if path == "decoded":
        return lambda number: _drain(loader.decoded(number), lambda batch: len(batch[1]))
    if path == "crops":
        return lambda number: _drain(loader.batches(number), lambda batch: len(batch.samples))
    return augmented


def two_ffcv_pipelines(beton: Path, workers: int) -> Epoch:
    """FFCV's Loader with two crop pipelines on one field."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader as FfcvLoader
    from ffcv.loader import OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    def pipeline() -> Any:
        decoder = RandomResizedCropRGBImageDecoder((SIZE, SIZE))
        return PipelineSpec("image", decoder, [RandomHorizontalFlip(), ToTensor()])

    loader = FfcvLoader(
        str(beton),
        batch_size=BATCH,
        num_workers=workers,
        order=OrderOption.RANDOM,
        seed=0,
        os_cache=True,
        indices=_samples(beton),
        pipelines={"image": pipeline(), "second": pipeline(), "label": None, "index": None},
    )
    return lambda _: _drain(iter(loader), lambda batch: len(batch[0]))


class OfficialPhotos(torch.utils.data.Dataset[list[torch.Tensor]]):
    """The same JPEGs through the official program's transforms (augmentations.py), two views each."""

    def __init__(self, beton: Path, colours: bool) -> None:
        self.beton, self.samples = open_beton(beton), _samples(beton)
        self.views = [official_transform(view, colours) for view in official_views()]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> list[torch.Tensor]:
        content = self.beton.image_bytes(int(self.samples[place])).tobytes()
        image = Image.open(io.BytesIO(content)).convert("RGB")
        return [view(image) for view in self.views]


def official_transform(view: ViewConfig, colours: bool) -> Callable[[Image.Image], torch.Tensor]:
    crop = transforms.RandomResizedCrop(SIZE, interpolation=BICUBIC)
    geometry = [crop, transforms.RandomHorizontalFlip(view.hflip_p)]
    jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    changes = [
        transforms.RandomApply([jitter], view.jitter_p),
        transforms.RandomGrayscale(view.grayscale_p),
        transforms.RandomApply([transforms.Lambda(_pillow_blur)], view.blur_p),
        transforms.RandomApply([transforms.Lambda(ImageOps.solarize)], view.solarize_p),
    ]
    config = DataConfig()
    last = [transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
    composed: Callable[[Image.Image], torch.Tensor]
    composed = transforms.Compose(geometry + changes + last if colours else [*geometry, transforms.PILToTensor()])
    return composed


def _pillow_blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def official(beton: Path, workers: int, colours: bool) -> Epoch:
    """torchvision's transforms in a DataLoader with worker processes that stay alive."""
    loader = torch.utils.data.DataLoader(
        OfficialPhotos(beton, colours), BATCH, shuffle=True, num_workers=workers, persistent_workers=True
    )
    return lambda _: _drain(iter(loader), lambda batch: len(batch[0]))


CONTESTANTS: dict[str, Callable[[Path, int], Epoch]] = {
    "FFCV's imdecode alone (the limit)": limit,
    "ours: decoded, for a GPU to crop": functools.partial(ours, path="decoded"),
    "ours: two crops": functools.partial(ours, path="crops"),
    "FFCV: two pipelines on one field": two_ffcv_pipelines,
    "torchvision: two crops": functools.partial(official, colours=False),
    "ours: two crops, colours": functools.partial(ours, path="colours"),
    "torchvision: two crops, colours": functools.partial(official, colours=True),
}
TARGETS = [  # first over second, images per second, at least
    ("ours: decoded, for a GPU to crop", "FFCV's imdecode alone (the limit)", 0.8),
    ("ours: two crops", "FFCV: two pipelines on one field", 1.6),
    ("ours: two crops", "torchvision: two crops, colours", 6.0),
]


@functools.cache
def _epoch(name: str, beton: Path, workers: int) -> Epoch:
    """A contestant, built once per process and run once to compile what it compiles and start what it starts."""
    epoch = CONTESTANTS[name](beton, workers)
    epoch(0)
    return epoch


def run_round(name: str, beton: Path, workers: int, number: int) -> float:
    """Images per second of one epoch."""
    epoch = _epoch(name, beton, workers)
    start_s = time.perf_counter()
    return epoch(number) / (time.perf_counter() - start_s)


def measure_loaders(beton: Path, options: Loader) -> dict[str, float]:
    """Images per second of every contestant."""
    context = multiprocessing.get_context("spawn")
    processes = {name: ProcessPoolExecutor(1, mp_context=context) for name in CONTESTANTS}
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(1, options.rounds + 1):
        for name, process in processes.items():
            rates[name].append(process.submit(run_round, name, beton, options.workers, number).result())
    for process in processes.values():
        process.shutdown()
    return {name: statistics.median(values) for name, values in rates.items()}


def ratios(options: Loader, console: Console) -> list[Ratio]:
    """Measure and print the loaders; their ratios with the targets."""
    with tempfile.TemporaryDirectory() as folder:
        beton = beton_of(options.photos, Path(folder), options.workers)
        rates = measure_loaders(beton, options)
        num = open_beton(beton).num_samples
    title = f"{num:,} photos, {options.workers} workers, median of {options.rounds} rounds"
    table = Table("loader", title=title)
    for heading in ("images/s", "of the limit", "times two FFCV", "times official"):
        table.add_column(heading, justify="right")
    for name, rate in rates.items():
        others = [rates[list(CONTESTANTS)[place]] for place in (0, 3, -1)]
        table.add_row(name, f"{rate:,.0f}", f"{rate / others[0]:.0%}", *(f"{rate / other:.2f}" for other in others[1:]))
    console.print(table)
    return [Ratio(f"loader, {name} / {other}", rates[name] / rates[other], target) for name, other, target in TARGETS]


def beton_of(photos: Path, folder: Path, workers: int) -> Path:
    """The photos as a beton of at most 500 px, in `folder`; what is a beton already stays as it is."""
    if not photos.is_dir():
        return photos
    beton = folder / "photos.beton"
    write_beton(sources.folder(photos), beton, WritePlan("jpg", 500, 90), num_workers=workers)
    return beton


def main() -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(tyro.cli(Loader), console), console)


if __name__ == "__main__":
    main()
