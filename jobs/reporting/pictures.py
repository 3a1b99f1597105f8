"""A gallery's pictures in a page: the map of validation images twice, as dots and as thumbnails, and the neighbours.

The pictures of a gallery (vicreg/evals/gallery.py) come as one JPEG with many squares; it stands in the page once, and
each square is a window on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.reporting.page import escape, figure

SIZE = 1000  # of the map, in its own units
MARGIN = 30
THUMBNAIL = 38
ROOM = 32  # smallest distance of two thumbnails: they may overlap by their frames
NUM_COLORS = 10  # of classes in the style sheet
MAX_NAMED = 20  # classes that get a colour and a name on the map
MAP_SHEET, NEIGHBOUR_SHEET = "map-sheet", "neighbour-sheet"


def hidden_sheet(sheet: dict[str, Any], name: str) -> str:
    """A sheet of pictures, for the windows on it."""
    width, height = sheet["columns"] * sheet["side_px"], sheet["rows"] * sheet["side_px"]
    source = f"data:image/jpeg;base64,{escape(sheet['jpeg'])}"
    image = f'<image id="{name}" width="{width:d}" height="{height:d}" href="{source}"/>'
    return f'<svg class="sheet" aria-hidden="true" width="0" height="0"><defs>{image}</defs></svg>'


def feature_map(gallery: dict[str, Any]) -> str:
    """The map as coloured dots and as thumbnails."""
    content, names = gallery["map"], gallery["classes"]
    xs, ys = ([MARGIN + (SIZE - 2 * MARGIN) * float(value) for value in content[axis]] for axis in "xy")
    labels = [int(label) for label in content["labels"]]
    classes = sorted(set(labels))
    colors = {label: f"c{number % NUM_COLORS}" for number, label in enumerate(classes)}
    if len(classes) > MAX_NAMED:
        colors = dict.fromkeys(classes, "c0")
    thing = _thing(gallery)
    titles = [
        escape(f"{names.get(str(label), 'no class')}, validation {thing} {sample}")
        for label, sample in zip(labels, content["samples"], strict=True)
    ]
    dots = "".join(
        f'<circle class="{colors[label]}" cx="{x:.0f}" cy="{y:.0f}" r="7"><title>{title}</title></circle>'
        for label, x, y, title in zip(labels, xs, ys, titles, strict=True)
    )
    if len(classes) <= MAX_NAMED:
        dots += "".join(_class_name(names, label, labels, xs, ys) for label in classes)
    shown = _apart(xs, ys)
    small = "".join(
        f'<circle class="{colors[labels[i]]}" cx="{xs[i]:.0f}" cy="{ys[i]:.0f}" r="4"/>'
        for i in range(len(xs))
        if i not in shown
    )
    small += "".join(_thumbnail(content["sheet"], i, xs[i], ys[i], colors[labels[i]], titles[i]) for i in sorted(shown))
    told = f"{len(xs):,} of {int(gallery['num_val']):,} validation {thing}s"
    colored = "coloured and named by class" if len(classes) <= MAX_NAMED else f"{len(classes):,} classes, not coloured"
    about = (
        f"{told}, {colored}. Places: 50 principal components of the frozen features, then t-SNE. What lies near "
        "has similar features; distances between groups mean little."
    )
    pictures = f"The same map with pictures of {len(shown):,} {thing}s, as many as find room; dots for the rest."
    view = f'<svg viewBox="0 {min(ys) - MARGIN:.0f} {SIZE} {max(ys) - min(ys) + 2 * MARGIN:.0f}">'
    return (
        hidden_sheet(content["sheet"], MAP_SHEET)
        + '<div class="pair">'
        + "\n".join(
            [
                figure(f"{view}{dots}</svg>", "Map of features.", about, f"Map of the features of {told}", "map"),
                figure(f"{view}{small}</svg>", "In pictures.", pictures, f"Map of {len(shown)} small pictures", "map"),
                "</div>",
            ]
        )
    )


def _thing(gallery: dict[str, Any]) -> str:
    """What a sample of the gallery is called."""
    return "clip" if gallery.get("neighbours", {}).get("sounds") else "image"


def _class_name(names: dict[str, str], label: int, labels: list[int], xs: list[float], ys: list[float]) -> str:
    """A class's name where most of its images are: at the medians."""
    own = [number for number, other in enumerate(labels) if other == label]
    x, y = (sorted(values[number] for number in own)[len(own) // 2] for values in (xs, ys))
    anchor = "start" if x < SIZE / 5 else "end" if x > SIZE * 4 / 5 else "middle"
    size = "few" if len(names) <= NUM_COLORS else "many"
    name = escape(names.get(str(label), "no class"))
    return f'<text class="{size}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{name}</text>'


def _apart(xs: list[float], ys: list[float]) -> set[int]:
    """Points that get a thumbnail: each in turn, if there is room."""
    taken: dict[tuple[int, int], list[int]] = {}
    chosen: set[int] = set()
    for point, (x, y) in enumerate(zip(xs, ys, strict=True)):
        cell = int(x // ROOM), int(y // ROOM)
        near = [
            other for dx in (-1, 0, 1) for dy in (-1, 0, 1) for other in taken.get((cell[0] + dx, cell[1] + dy), [])
        ]
        if all(max(abs(xs[other] - x), abs(ys[other] - y)) >= ROOM for other in near):
            taken.setdefault(cell, []).append(point)
            chosen.add(point)
    return chosen


def _thumbnail(sheet: dict[str, Any], number: int, x: float, y: float, color: str, title: str) -> str:
    """A picture around a point, framed in the colour of its class."""
    side = THUMBNAIL - 4
    left, top = x - side / 2, y - side / 2
    window = _window(sheet, number, MAP_SHEET, f'x="{left:.0f}" y="{top:.0f}" width="{side}" height="{side}"')
    frame = f'<rect class="{color}" x="{left:.0f}" y="{top:.0f}" width="{side}" height="{side}"/>'
    return f"<g><title>{title}</title>{window}{frame}</g>"


def _window(sheet: dict[str, Any], number: int, sheet_name: str, place: str) -> str:
    """One square of a sheet as an SVG."""
    side, columns = int(sheet["side_px"]), int(sheet["columns"])
    view = f"{number % columns * side} {number // columns * side} {side} {side}"
    return f'<svg {place} viewBox="{view}"><use href="#{sheet_name}"/></svg>'


def neighbours(gallery: dict[str, Any]) -> str:
    """Validation images or clips, each with those of the training data nearest to it."""
    content, names = gallery["neighbours"], gallery["classes"]
    sounds, rows = content.get("sounds", []), list[str]()
    thing, tile = _thing(gallery), 0
    for query, label, samples, labels, cosines in zip(
        *(content[key] for key in ("samples", "labels", "train_samples", "train_labels", "cosines")), strict=True
    ):
        name = names.get(str(label), "no class")
        tiles = [_tile(content["sheet"], tile, f"validation {thing} {query}", name, "", "query", sounds)]
        for sample, found, cosine in zip(samples, labels, cosines, strict=True):
            tile += 1
            kind = "same" if found == label else "other"
            found_name = names.get(str(found), "no class")
            what = f"training {thing} {sample}"
            tiles.append(_tile(content["sheet"], tile, what, found_name, f"{cosine:.2f}", kind, sounds))
        tile += 1
        rows.append(f'<li class="row">{"".join(tiles)}</li>')
    about = (
        f"First a validation {thing}, then the training {thing}s whose features have the largest cosine with its own "
        "(below the name). A name with ≠ is another class."
    )
    if sounds:
        about += " Pictures are mel spectrograms: time to the right, low bands at the bottom, bright is loud."
    sheet = hidden_sheet(content["sheet"], NEIGHBOUR_SHEET)
    kind = "neighbours heard" if sounds else "neighbours"
    return f'{sheet}<p>{about}</p>\n<ul class="{kind}">' + "\n".join(rows) + "</ul>"


def _tile(
    sheet: dict[str, Any], number: int, what: str, name: str, cosine: str, kind: str, sounds: Sequence[str]
) -> str:
    """A picture with its class and how near it is, and of sound a player."""
    sign = "≠\N{NO-BREAK SPACE}" if kind == "other" else ""
    said = f"{what}, class {name}" + (f", cosine {cosine}" if cosine else "")
    source = f"data:audio/mpeg;base64,{escape(sounds[number])}" if sounds else ""
    player = f'<audio controls src="{source}" aria-label="Play {escape(said)}"></audio>' if sounds else ""
    return tile(sheet, NEIGHBOUR_SHEET, number, said, (f"{sign}{name}", cosine), kind, player)


def tile(
    sheet: dict[str, Any],
    sheet_name: str,
    number: int,
    said: str,
    lines: Sequence[str],
    kind: str = "",
    player: str = "",
) -> str:
    """A picture of a sheet with lines below it, of which the first is its name; `said` is for who does not see it.

    player: an element that plays what the picture shows.
    """
    window = _window(sheet, number, sheet_name, f'role="img" aria-label="{escape(said)}"')
    name, *more = lines
    below = f'<span class="name">{escape(name)}</span>' + "".join(
        f"<span>{escape(line)}</span>" for line in more if line
    )
    return f'<div class="tile {kind}">{window}{player}{below}</div>'
