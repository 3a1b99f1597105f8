"""Curves and bars as SVG that stands inside an HTML page: drawn by matplotlib, coloured by the page's style sheet.

matplotlib's output is a file of its own; here it loses its head, its style, its fonts and every id that nothing refers
to, and the other ids get a prefix, so that many figures fit into one page. Text stays text. Equal input, equal output.
"""

from __future__ import annotations

import io
import math
import re
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from border.text import visible

if TYPE_CHECKING:  # it is imported where charts are drawn: not every command that could draw does
    from matplotlib.axes import Axes

MAX_POINTS = 500
WIDTH_IN, HEIGHT_IN = 3.7, 2.3  # at the page's column width a point is a little more than a CSS pixel
INK, GRID, GREY = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0000f{number}" for number in range(6))
"""Colours that stand for those of the style sheet: var(--ink), var(--grid), var(--grey), var(--s0) ..."""
DASHES: tuple[tuple[int, ...], ...] = ((), (5, 2), (1, 1), (6, 2, 1, 2))  # in line widths; none: a whole line
LINE_WIDTH = 1.5
THIN = -1  # number of curves that stay in the background
_VARIABLES = {INK: "ink", GRID: "grid", GREY: "grey"} | {color: f"s{number}" for number, color in enumerate(SERIES)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": False,
    "legend.frameon": False,
}
LOG_ABOVE = 30.0  # largest over median value, from which a positive curve gets a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """A line; where y is None or not finite there is nothing to draw."""

    xs: Sequence[float]
    ys: Sequence[float | None]
    number: int = 0
    """Of its colour and dashes; THIN ones are grey, behind the others."""


@dataclass(frozen=True)
class Bar:
    """A number from 0 to 100 with a name, and what it is compared with."""

    name: str
    value: float
    others: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Spread:
    """Several values at each place of an axis."""

    values: Sequence[Sequence[float]]
    number: int = 0
    """Of its colour and dashes."""


def thinned(curve: Curve, at_most: int = MAX_POINTS) -> tuple[Curve, int]:
    """The curve with no more than so many points, each the mean of a group of equal size, and the size of a group.

    Values that are not finite do not count; a group of such values has none.
    """
    group = -(-len(curve.xs) // at_most) or 1
    xs: list[float] = []
    ys: list[float | None] = []
    for start in range(0, len(curve.xs), group):
        part = curve.xs[start : start + group]
        known = [y for y in curve.ys[start : start + group] if y is not None and math.isfinite(y)]
        xs.append(sum(part) / len(part))
        ys.append(sum(known) / len(known) if known else None)
    return Curve(xs, ys, curve.number), group


def line_chart(name: str, curves: Sequence[Curve], x_label: str, may_be_log: bool = False) -> str:
    """Curves over each other; `name` makes the ids of the figure differ from those of others on the page."""

    from matplotlib.ticker import MaxNLocator, NullFormatter

    def draw(axes: Axes) -> None:
        for curve in sorted(curves, key=lambda curve: curve.number):
            values = [math.nan if y is None else y for y in curve.ys]
            thin = curve.number == THIN
            dashes = DASHES[curve.number % len(DASHES)]
            alone = sum(map(math.isfinite, values)) == 1
            axes.plot(
                curve.xs,
                values,
                color=GREY if thin else SERIES[curve.number % len(SERIES)],
                linewidth=0.6 if thin else LINE_WIDTH,
                linestyle="-" if thin or not dashes else (0, dashes),
                marker="o" if alone else "",
                markersize=3,
            )
        if may_be_log and _spans_decades([y for curve in curves for y in curve.ys if y is not None]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    return _svg(name, draw, HEIGHT_IN)


def bar_chart(name: str, bars: Sequence[Bar], x_label: str) -> str:
    """Horizontal bars from 0 to 100, the first on top; a mark on the bar for each number it is compared with."""

    def draw(axes: Axes) -> None:
        rows = range(len(bars))
        axes.barh(rows, [bar.value for bar in bars], color=SERIES[0], height=0.62)
        for row, bar in zip(rows, bars, strict=True):
            axes.text(bar.value + 1, row, f"{bar.value:.1f}", va="center", fontsize=7.5)
            for number, value in enumerate(bar.others, 1):
                if value is not None:
                    axes.plot([value, value], [row - 0.45, row + 0.45], color=SERIES[number], linewidth=2)
        axes.set_yticks(rows, [shortened(bar.name, 22) for bar in bars])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(x_label)

    return _svg(name, draw, 0.7 + 0.19 * len(bars))


def spread_chart(name: str, places: Sequence[str], series: Sequence[Spread], x_label: str) -> str:
    """Values at named places: a dot for each, a line through the means, a bar of a standard deviation up and down."""

    def draw(axes: Axes) -> None:
        for spread in series:
            color, dashes = SERIES[spread.number % len(SERIES)], DASHES[spread.number % len(DASHES)]
            known = [(place, list(values)) for place, values in enumerate(spread.values) if values]
            means = [statistics.fmean(values) for _, values in known]
            deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in known]
            axes.errorbar(
                [place for place, _ in known],
                means,
                deviations,
                color=color,
                linewidth=LINE_WIDTH,
                linestyle=(0, dashes) if dashes else "-",
                elinewidth=0.8,
                capsize=3,
            )
            dots = [(place - 0.07, value) for place, values in known for value in values]
            axes.plot(*zip(*dots, strict=True), "o", color=color, markersize=3) if dots else None
        axes.set_xticks(range(len(places)), [shortened(place, 12) for place in places])
        axes.set_xlim(-0.4, len(places) - 0.6)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(shortened(x_label, 40))

    return _svg(name, draw, HEIGHT_IN)


def line_key(number: int) -> str:
    """How a curve of this number looks, for a legend."""
    if number == THIN:
        return '<svg class="key" viewBox="0 0 30 10"><path d="M0 5H30" style="stroke: var(--grey)"/></svg>'
    dashes = " ".join(f"{length * 3}" for length in DASHES[number % len(DASHES)])
    style = f"stroke: var(--s{number % len(SERIES)}); stroke-width: 3; stroke-dasharray: {dashes or 'none'}"
    return f'<svg class="key" viewBox="0 0 30 10"><path d="M0 5H30" style="{style}"/></svg>'


def bar_key(number: int) -> str:
    """How a bar (0) or the mark of what it is compared with looks, for a legend."""
    shape = "M2 1H28V9H2Z" if number == 0 else "M13 0H17V10H13Z"
    return f'<svg class="key" viewBox="0 0 30 10"><path d="{shape}" style="fill: var(--s{number})"/></svg>'


def shortened(text: str, at_most: int) -> str:
    """A text on one line, cut in the middle; what is not seen is spelled out."""
    text = " ".join(visible(text).split())
    if len(text) <= at_most:
        return text
    head = (at_most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (at_most - 1 - head) :]}"


def _spans_decades(values: list[float]) -> bool:
    finite = sorted(value for value in values if math.isfinite(value))
    return bool(finite) and finite[0] > 0 and finite[-1] > LOG_ABOVE * finite[len(finite) // 2]


def _svg(name: str, draw: Callable[[Axes], None], height_in: float) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a measure of text only: the reader's fonts draw it
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_a_page(file.getvalue(), name)


def _for_a_page(svg: str, name: str) -> str:
    """A matplotlib file as an element of a page."""
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box
    body = svg[svg.index(">", view_box.end()) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r" font-family: [^;]*;", "", body.replace("xlink:href", "href"))
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.2f}", path[0]), body)
    body = re.sub(r"\s*\n\s*", " ", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(f": {color}", f": var(--{variable})")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", body)
    return f"<svg {view_box[0]}>{body.strip()}</svg>"
