"""Writing betons, side by side: this suite keeping JPEGs, this suite at 500 px, FFCV's own writer at 500 px.

`python benchmarks/writer.py PHOTOS` takes any folder of class folders with JPEGs; they are listed several times over so
that start-up costs, which are counted, do not decide. All write from the page cache to the same disk, in turns; the
time is the wall clock from start to finished file, and the median over the rounds is printed. This suite reads every
JPEG to its last code, which FFCV's writer does because it compresses all of them anew.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratio, print_ratios
from dataprep.sources import class_folders as sources
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton

QUALITY = 90
MAX_RESOLUTION = 500


@dataclass(frozen=True)
class Writer:
    """Measure the writers on the photos of a folder."""

    photos: tyro.conf.Positional[Path]
    """Folder with <class>/<photos>."""
    repeat: int = 10
    """How often each photo is written."""
    rounds: int = 3
    """How often each writer runs."""
    num_workers: int = 2
    """Worker processes of every writer."""


class Photos:
    """The photos as FFCV's writer wants them, read as torchvision's ImageFolder reads them."""

    def __init__(self, paths: list[Path], labels: list[int]) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, sample: int) -> tuple[Image.Image, int, int]:
        with Image.open(self.paths[sample]) as image:
            return image.convert("RGB"), self.labels[sample], sample


def write_with_ffcv(tree: Path, target: Path, num_workers: int) -> None:
    """FFCV's DatasetWriter with the settings of its ImageNet example: 500 px, JPEG quality 90."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    paths = sorted(tree.glob("*/*"))
    classes = sorted({path.parent.name for path in paths})
    photos = Photos(paths, [classes.index(path.parent.name) for path in paths])
    image = RGBImageField(write_mode="jpg", max_resolution=MAX_RESOLUTION, jpeg_quality=QUALITY)
    fields = {"image": image, "label": IntField(), "index": IntField()}
    DatasetWriter(str(target), fields, num_workers=num_workers).from_indexed_dataset(photos)


def write_with_ours(tree: Path, target: Path, plan: WritePlan, num_workers: int) -> None:
    """This suite's writer."""
    write_beton(sources.folder(tree), target, plan, num_workers=num_workers)


def link_photos(photos: Path, repeat: int, tree: Path) -> int:
    """Fill `tree` with links to the photos that every writer can read, `repeat` times; returns their number."""
    count = 0
    for path in sorted(photos.resolve().glob("*/*")):
        (tree / path.parent.name).mkdir(exist_ok=True)
        for copy in range(repeat):
            (tree / path.parent.name / f"{path.stem}_{copy}{path.suffix}").symlink_to(path)
            count += 1
    return count


def measure(run: Callable[[Path], None], target: Path) -> tuple[float, int]:
    """Seconds of one write and the size of its file, which is removed."""
    start_s = time.monotonic()
    run(target)
    seconds, size = time.monotonic() - start_s, target.stat().st_size
    target.unlink()
    return seconds, size


def ratios(options: Writer, console: Console) -> list[Ratio]:
    """Measure and print images per second of each writer; the ratio to FFCV's with its target."""
    plans = {
        "this suite, passthrough": WritePlan("passthrough"),
        "this suite, jpg, 500 px": WritePlan("jpg", MAX_RESOLUTION, QUALITY),
    }
    writers: dict[str, Callable[[Path, Path], None]] = {
        name: functools.partial(write_with_ours, plan=plan, num_workers=options.num_workers)
        for name, plan in plans.items()
    }
    writers["FFCV's DatasetWriter, jpg, 500 px"] = functools.partial(write_with_ffcv, num_workers=options.num_workers)
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        count = link_photos(options.photos, options.repeat, tree)
        if count == 0:
            raise SystemExit(f"{options.photos} holds no <class>/<photos>")
        for _ in range(options.rounds):
            for name, writer in writers.items():
                took_s, sizes[name] = measure(functools.partial(writer, tree), Path(folder) / "out.beton")
                seconds[name].append(took_s)
    rates = {name: count / statistics.median(times) for name, times in seconds.items()}
    table = Table(title=f"{count:,} photos, {options.num_workers} workers, median of {options.rounds}")
    for heading in ("writer", "images/s", "times FFCV's", "MB"):
        table.add_column(heading, justify="left" if heading == "writer" else "right")
    for name, rate in rates.items():
        ratio = rate / list(rates.values())[-1]
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.1f}", f"{sizes[name] / 1e6:,.1f}")
    console.print(table)
    measured = rates["this suite, passthrough"] / list(rates.values())[-1]
    return [Ratio("writer, passthrough / FFCV's DatasetWriter, images per second", measured, 2.0)]


def main() -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(tyro.cli(Writer), console), console)


if __name__ == "__main__":
    main()
