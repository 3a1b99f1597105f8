"""What images and captions found first, as a person can judge it: captions beside an image, images below a caption."""

from __future__ import annotations

from typing import Any

from jobs.reporting.measured_run import Run
from jobs.reporting.page import escape
from jobs.reporting.pictures import hidden_sheet, tile

SHEET = "retrieval-sheet"
ABOUT_CAPTIONS = "Left a validation image, right the captions nearest to it, nearest first; ✓ marks its own."
ABOUT_IMAGES = "Validation images nearest to a caption, nearest first; ✓ marks the one that it was written of."


def retrieved(run: Run) -> str:
    """Median ranks, and what some queries found, of the first retrieval of the trained branches; empty without one."""
    found = next((result for result in run.trained().values() if result.module == "retrieval"), None)
    if found is None:
        return ""
    details = found.details
    of_images, of_captions = (int(details[f"{way}_median_rank"]) for way in ("image_to_text", "text_to_image"))
    told = (
        f"Half of the validation images find one of their captions among the first {of_images:,} of "
        f"{int(details['num_captions']):,}, half of the captions their image among the first {of_captions:,} of "
        f"{int(details['num_images']):,} (median ranks; ties count against)."
    )
    parts = [f"<p>{escape(told)}</p>"]
    if "sheet" in details:
        parts += [hidden_sheet(details["sheet"], SHEET), *_found(details)]
    return "\n".join(parts)


def _found(details: dict[str, Any]) -> list[str]:
    sheet, number = details["sheet"], 0
    rows, below = [], []
    for captions in details["captions_found"]:
        lines = "".join(f"<li>{escape(_marked(one['text'], one['right']))}</li>" for one in captions)
        picture = tile(sheet, SHEET, number, "validation image", ("",), "query")
        rows.append(f'<li class="captioned">{picture}<ol>{lines}</ol></li>')
        number += 1
    for asked in details["images_found"]:
        tiles = []
        for place, right in enumerate(asked["right"], 1):
            said = f"place {place}" + (", the right one" if right else "")
            tiles.append(tile(sheet, SHEET, number, said, (_marked(str(place), right),), "query" if right else ""))
            number += 1
        below.append(f'<li><p>{escape(asked["text"])}</p><div class="row">{"".join(tiles)}</div></li>')
    return [
        f"<h3>Captions found for images</h3>\n<p>{ABOUT_CAPTIONS}</p>",
        f'<ul class="neighbours">{"".join(rows)}</ul>',
        f"<h3>Images found for captions</h3>\n<p>{ABOUT_IMAGES}</p>",
        f'<ul class="neighbours">{"".join(below)}</ul>',
    ]


def _marked(text: str, right: bool) -> str:
    return f"{text} ✓" if right else text
