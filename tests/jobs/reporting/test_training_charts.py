"""Curves of training: what every method logs is drawn with the method's own title and sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.planning import recipes
from jobs.reporting.measured_run import Run
from jobs.reporting.training_charts import training
from vicreg import methods


def _run(method: str) -> Run:
    terms = methods.load(method).TERMS
    lines = [
        {"step": step, "epoch": step // 4, "learning_rate": 0.1} | dict.fromkeys(terms, 2.0 + step) for step in range(8)
    ]
    recipe = next(iter(methods.load(method).RECIPES))
    return Run(Path("runs") / method, recipes.recipe(recipe).pretrain, recipe, True, [], {}, lines=lines)


@pytest.mark.parametrize("method", methods.names())
def test_a_methods_terms_are_drawn_as_it_says_them(method: str) -> None:
    page = training([_run(method)])
    for term in methods.load(method).TERMS.values():
        assert f"{term.title}." in page.replace("&#x27;", "'")
        assert term.sentence in page.replace("&#x27;", "'")
    assert "Warm-up, then a cosine." in page


def test_runs_of_several_methods_share_a_page() -> None:
    page = training([_run("vicreg"), _run("barlow_twins")])
    for title in ("Covariance.", "Off the diagonal.", "Learning rate."):
        assert page.count(f">{title}<") == 1
