"""What a detector found in some validation images, beside what is there: boxes drawn over small JPEGs."""

from __future__ import annotations

from typing import Any

from jobs.reporting.measured_run import Run
from jobs.reporting.page import escape

NUM_COLORS = 10  # of classes in the style sheet
ABOUT = (
    "Left what was found with a score of a half or more, right what is there. A class has one colour; masks, where "
    "they are measured, are blended into the image."
)


def found_and_true(run: Run) -> str:
    """The pictures of every evaluation of the trained encoder that has some."""
    parts: list[str] = []
    for evaluation, result in run.trained().items():
        shown = result.details.get("pictures")
        if not isinstance(shown, list) or not shown:
            continue
        rows = "\n".join(_pair(one) for one in shown)
        parts.append(f"<h3>{escape(evaluation)}</h3>\n<p>{escape(ABOUT)}</p>\n{rows}")
    return "\n".join(parts)


def _pair(one: dict[str, Any]) -> str:
    width, height, sample = int(one["width"]), int(one["height"]), int(one["sample"])
    drawn = "".join(
        _drawing(one[part], width, height, f"validation image {sample}, {said}")
        for part, said in (("found", "found"), ("true", "true"))
    )
    return f'<div class="pair">{drawn}</div>'


def _drawing(picture: dict[str, Any], width: int, height: int, title: str) -> str:
    """A JPEG with its boxes; what is in it is also said in words."""
    source = f"data:image/jpeg;base64,{escape(picture['jpeg'])}"
    boxes = "".join(_box(one) for one in reversed(picture["objects"]))
    said = ", ".join(f"{one['name']} {float(one['score']):.2f}" for one in picture["objects"]) or "nothing"
    return (
        f'<svg class="objects" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(f"{title}: {said}")}">'
        f'<image width="{width}" height="{height}" href="{source}"/>{boxes}</svg>'
    )


def _box(one: dict[str, Any]) -> str:
    left, top, right, bottom = (float(value) for value in one["box"])
    color = f"c{int(one['class']) % NUM_COLORS}"
    place = f'x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0):.1f}" height="{max(bottom - top, 0):.1f}"'
    title = f"{one['name']} {float(one['score']):.2f}"
    return (
        f'<g><title>{escape(title)}</title><rect class="{color}" {place}/>'
        f'<text x="{left + 2:.1f}" y="{top + 10:.1f}">{escape(one["name"])}</text></g>'
    )
