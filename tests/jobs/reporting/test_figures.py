"""Curves and bars: thinned without changing their mean, elements of a page and not files, the same every time."""

from __future__ import annotations

import math
import re

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.reporting.figures import INK, MAX_POINTS, SERIES, THIN, Bar, Curve, bar_chart, line_chart, shortened, thinned

VALUES = st.lists(st.floats(-1e3, 1e3) | st.none() | st.just(math.nan), max_size=2000)


@settings(max_examples=50, deadline=None)
@given(ys=VALUES, at_most=st.integers(1, 40))
def test_thinned_curves_are_means_of_equal_groups(ys: list[float | None], at_most: int) -> None:
    curve, group = thinned(Curve([float(x) for x in range(len(ys))], ys, 3), at_most)
    assert len(curve.xs) == len(curve.ys) <= at_most
    assert curve.number == 3
    for place, (x, y) in enumerate(zip(curve.xs, curve.ys, strict=True)):
        part = range(place * group, min((place + 1) * group, len(ys)))
        known = [value for value in (ys[number] for number in part) if value is not None and math.isfinite(value)]
        assert x == pytest.approx(sum(part) / len(part))
        assert y == (pytest.approx(sum(known) / len(known)) if known else None)


def test_short_curves_stay_as_they_are() -> None:
    curve, group = thinned(Curve([1.0, 2.0], [3.0, None]))
    assert (curve, group) == (Curve([1.0, 2.0], [3.0, None]), 1)
    assert thinned(Curve([], [])) == (Curve([], []), 1)
    assert len(thinned(Curve(list(range(10_007)), [1.0] * 10_007))[0].xs) <= MAX_POINTS


def _curve_of(svg: str, number: int) -> str:
    """The path drawn in the colour of this number."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*stroke: var\(--s{number}\)', svg)
    assert len(found) == 1
    return str(found[0])


def test_a_chart_is_an_element_with_text_and_colours_of_the_style_sheet() -> None:
    svg = line_chart("a", [Curve([0, 1, 2, 3], [1, 2, None, 4]), Curve([0, 3], [4, 1], 1)], "epoch <&>")
    assert svg.startswith("<svg viewBox=")
    assert ">epoch &lt;&amp;&gt;</text>" in svg
    assert "font-family" not in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert all(color not in svg for color in (INK, *SERIES))
    ids = re.findall(r' id="([^"]*)"', svg)
    assert ids
    assert all(name.startswith("a-") for name in ids)
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) == set(ids)
    assert [_curve_of(svg, number).count("L") for number in (0, 1)] == [1, 1]  # a gap where y is None


def test_charts_are_the_same_whatever_the_user_has_set() -> None:
    curves = [Curve([0, 1], [1, 2])]
    before = line_chart("a", curves, "x")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "lines.linewidth": 9, "svg.hashsalt": None}):
        assert line_chart("a", curves, "x") == before
    assert line_chart("b", curves, "x").replace("b-", "a-") == before


def test_thin_curves_are_grey_and_lone_points_are_seen() -> None:
    svg = line_chart("a", [Curve([0, 1], [1, 2], THIN), Curve([0, 1], [1, None], 0)], "x")
    assert "stroke: var(--grey); stroke-width: 0.6" in svg
    assert 'style="fill: var(--s0); stroke: var(--s0)' in svg  # a dot


@pytest.mark.parametrize(
    ("values", "is_log"),
    [
        ([1000.0, 1, 1, 1], True),
        ([1000.0, 900, 800, 1], False),
        ([1000.0, 1, 1, -1], False),
        ([1000.0, 1, 1, 0], False),
    ],
)
def test_a_logarithmic_axis_only_for_positive_values_over_decades(values: list[float | None], is_log: bool) -> None:
    svg = line_chart("a", [Curve([0, 1, 2, 3], values)], "x", may_be_log=True)
    ticks = re.findall(r">(\d+)</text>", svg)
    assert ({"10", "100", "1000"} <= set(ticks)) == is_log


def test_bars_are_as_long_as_their_values() -> None:
    svg = bar_chart("b", [Bar("one", 50.0, (25.0, None)), Bar("two", 100.0, (None, 75.0))], "percent")
    assert "50.0</text>" in svg
    shapes = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--s0\)', svg)
    widths = [max(xs) - min(xs) for xs in ([float(x) for x in re.findall(r"[ML] ([\d.]+) ", d)] for d in shapes)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.05)
    assert svg.count("stroke: var(--s1)") == 1
    assert svg.count("stroke: var(--s2)") == 1


def test_texts_are_cut_in_the_middle() -> None:
    assert shortened("short", 5) == "short"
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("a\n b  \udcff", 12) == r"a\n b \xff"
