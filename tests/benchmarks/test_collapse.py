"""The figure of the collapse: what its runs differ in, and that it is drawn alike each time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.collapse import DIMS, KINDS, TERM_OF_DIRECTIONS, config_of, draw
from benchmarks.small_methods import SIDE_PX
from vicreg.config import DataConfig
from vicreg.method import UNKNOWN_DATA
from vicreg.methods.simsiam import Config
from vicreg.networks import build
from vicreg.networks.simsiam import SimSiam

DATA = DataConfig(image_size=SIDE_PX, eval_resize=SIDE_PX)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_a_kind_differ_in_the_variance_term_alone(kind: str) -> None:
    runs = [config_of(kind, has_term, DATA, 10) for has_term in (False, True)]
    settings = [run.method for run in runs]
    assert all(isinstance(each, Config) for each in settings)
    assert dataclasses.replace(runs[0], method=settings[1]) == runs[1]
    assert dataclasses.replace(settings[0], **TERM_OF_DIRECTIONS) == settings[1]
    assert int(runs[0].model.expander.split("-")[-1]) == DIMS
    method = build(runs[0], UNKNOWN_DATA)
    assert isinstance(method, SimSiam)
    is_bare = kind != "SimSiam"
    assert (len(list(method.predictor.parameters())) == 0) is is_bare
    assert any("BatchNorm" in type(layer).__name__ for layer in method.expander) is not is_bare


def test_the_figure_is_the_same_each_time(tmp_path: Path) -> None:
    curves = {(kind, has_term): ([0.0, 1.0], [1.0, float(has_term)]) for kind in KINDS for has_term in (False, True)}
    for name in ("a.svg", "b.svg"):
        draw(curves, tmp_path / name)
    first, second = ((tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    assert first == second
    assert len(first) < 60_000
