"""Search: the images of a gallery that a run's encoder finds nearest to others, printed and as a page of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vicreg
from border.terminal import Terminal
from dataprep.beton.contract import Beton, open_beton
from disk.whole_files import write_text
from jobs.execution.embed import Wanted, members
from jobs.options.search import Command
from jobs.planning.cli import INTERRUPTED_EXIT_CODE, PlaceOptions
from jobs.planning.image_sets import WORK_FOLDER, ImageSet, digest
from jobs.reporting import feature_file
from jobs.reporting.feature_file import Features
from jobs.reporting.search_page import Hit, Query, search_page
from slurm import chain
from vicreg.config import DataConfig
from vicreg.evals.data_identity import fingerprint
from vicreg.evals.gallery import as_picture
from vicreg.exchange.encoder_file import checksum

PAGE = "search.html"
BLOCK_ROWS = 65_536


def carry_out(command: Command) -> int:
    """Embed what is not yet, find, print, write the page; returns the exit code."""
    console = Terminal()
    model = vicreg.load(command.run, command.encoder)
    pictures = [model.pixels(path) for path in command.query]  # before a long work: a query may not be there
    file = features_of(command, model.config.model.channels)
    if file is None:
        return INTERRUPTED_EXIT_CODE
    gallery = feature_file.read(file)
    if gallery.description["encoder_sha256"] != checksum(model.encoder):
        raise ValueError(f"{file} has features of another encoder than {command.run}'s; make them with jobs/embed.py")
    found = nearest(model.embed(pictures, gallery.description["layer"]), gallery.values, command.neighbours)
    beton, data, is_rgb = pictures_of(gallery), model.config.data, not model.config.model.channels
    queries = [
        Query(str(path), as_picture(pixels, data, is_rgb), hits(gallery, beton, data, samples, cosines))
        for path, pixels, samples, cosines in zip(command.query, pictures, *found, strict=True)
    ]
    for query in queries:
        console.print(*as_lines(query), sep="\n", soft_wrap=True, highlight=False)
    out = command.out or command.run / PAGE
    what = gallery.description["images"]
    layer = f", layer {gallery.description['layer']}" if gallery.description["layer"] else ""
    lead = f"The nearest of {len(gallery.names):,} images of {what}, by the cosine of {command.run}'s features{layer}."
    lead += "" if beton else f" No pictures: {gallery.description['beton']} is gone, or another one."
    write_text(out, search_page("Nearest images", lead, queries))
    console.print(f"written: {out}", soft_wrap=True, highlight=False)
    return 0


def features_of(command: Command, channels: int = 0) -> Path | None:
    """The gallery's file of features, made now where images are given; None when that was stopped."""
    if command.gallery.suffix in feature_file.SUFFIXES and feature_file.description_path(command.gallery).is_file():
        if command.layer:
            raise ValueError(f"--layer is {command.layer!r}, allowed for {command.gallery}: none, it has its own")
        return command.gallery
    images = ImageSet.of(command.gallery, command.run, command.split, channels=channels)
    encoder = "" if command.encoder == "a" else command.encoder
    name = f"features-{digest(images.beton, command.layer, encoder)}.parquet"
    out = (command.run / WORK_FOLDER / name).absolute()
    here = PlaceOptions(cluster="local")
    profile = here.profile()
    wanted = Wanted(str(command.run), images, str(out), command.layer, encoder)
    chain_members = members(wanted, 1, here.ranks_per_node(profile))
    return out if chain.run_here(command.run, chain_members, profile) else None


def nearest(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k most similar rows of the gallery for each query (Q, k), the nearest first and of equals the first; cosines.

    In float64, rounded to float32.
    """
    unit = _unit(queries)
    cosines = np.concatenate(
        [
            (unit @ _unit(gallery[at : at + BLOCK_ROWS]).T).astype(np.float32)
            for at in range(0, len(gallery), BLOCK_ROWS)
        ],
        axis=1,
    )
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(cosines, order, 1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


def pictures_of(gallery: Features) -> Beton | None:
    """The beton whose images were embedded; None where it is not there any more."""
    try:
        beton = open_beton(Path(gallery.description["beton"]))
        return beton if fingerprint(beton) == gallery.description["beton_sha256"] else None
    except (OSError, ValueError):
        return None


def hits(
    gallery: Features,
    beton: Beton | None,
    data: DataConfig,
    samples: NDArray[np.int64],
    cosines: NDArray[np.float32],
) -> Sequence[Hit]:
    """What was found, with pictures."""
    return [
        Hit(
            gallery.names[sample],
            gallery.labels[sample] if gallery.labels else "",
            float(cosine),
            as_picture(beton.decode(sample), data, beton.pixels.is_rgb) if beton else None,
        )
        for sample, cosine in zip(samples.tolist(), cosines, strict=True)
    ]


def as_lines(query: Query) -> list[str]:
    """What was found, nearest first: cosine, class, file."""
    width = max(len(hit.label) for hit in query.hits)
    return [query.name, *(f"  {hit.cosine:.3f}  {hit.label:{width}}  {hit.name}" for hit in query.hits), ""]
