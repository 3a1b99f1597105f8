"""The reports that people look at: a page of one run, and a page of several side by side.

Every part is made on its own, so that whatever is missing or damaged leaves out that part alone and says so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from jobs.planning import provenance, recipes
from jobs.reporting import detection_pictures, page, pictures, retrieval_pictures, training_charts
from jobs.reporting.document import Table, Text
from jobs.reporting.measured_run import Run, began_with, say_length, summary, what_is_missing
from jobs.reporting.page import Section, escape
from jobs.reporting.published_tables import data_sets, most_like, published, published_alone
from jobs.reporting.result_tables import (
    LAST_EPOCH,
    data_set_name,
    experiment,
    matched_classes,
    measured_tables,
    metric_names,
    other_settings,
    pretraining,
    say_metric,
    side_by_side,
)
from vicreg.config_json import differing_fields, flat, to_json
from vicreg.evals.results import BASELINES, Result, say_subject

log = logging.getLogger(__name__)

NEWLINE = "\n"
DATA = ("data.train", "data.val")
GALLERY = "gallery"  # module whose details are pictures
NUM_TILES = 8
HEADLINES = ("image_to_text_r1", "text_to_image_r1", "ap_box", "ap_mask")
"""Metrics with a tile each where an evaluation has them; of others the first has one."""
CURVES = "Evaluations, epoch by epoch"


def run_page(run: Run) -> str:
    """The page of one run."""
    sections = [
        *_section("results", "Results", lambda: _results(run)),
        *_section("published", "Beside published numbers", lambda: _published(run)),
        *_section("training", "Training", lambda: training_charts.training([run])),
        *_section("curves", CURVES, lambda: training_charts.evaluations([run])),
        *_section("checkpoints", "Along training", lambda: training_charts.checkpoints(run)),
        *_section("classes", "Class by class", lambda: training_charts.classes(run)),
        *_section("detections", "Found and true objects", lambda: detection_pictures.found_and_true(run)),
        *_section("retrieval", "Found for images and captions", lambda: retrieval_pictures.retrieved(run)),
        *_section("map", "Map of the features", lambda: _picture(run, pictures.feature_map)),
        *_section("neighbours", "Nearest neighbours", lambda: _picture(run, pictures.neighbours)),
        *_section("origin", "Settings and origin", lambda: _origin(run)),
    ]
    return page.page(str(run.path), _safely("the summary", lambda: _lead(run)), sections)


def comparison_page(runs: Sequence[Run]) -> str:
    """The page of several runs side by side."""
    runs = list(runs)
    sections = [
        *_section("runs", "Runs", lambda: _runs(runs)),
        *_section("results", "Results", lambda: page.blocks(side_by_side(runs))),
        *_section("published", "Beside published numbers", lambda: page.blocks(published(runs, with_settings=True))),
        *_section("training", "Training", lambda: training_charts.training(runs)),
        *_section("curves", CURVES, lambda: training_charts.evaluations(runs)),
    ]
    lead = f"<p class=lead>{escape(', '.join(str(run.path) for run in runs))}</p>"
    return page.page(f"{len(runs)} runs side by side", lead, sections)


def _section(name: str, title: str, make: Callable[[], str]) -> list[Section]:
    """A part of the page, or none where there is nothing to show."""
    body = _safely(title, make)
    return [Section(name, title, body)] if body else []


def _safely(what: str, make: Callable[[], str]) -> str:
    """HTML of a part, or a sentence that says why there is none."""
    try:
        return make()
    except Exception as error:  # whatever a damaged file leads to
        log.warning("the report goes without a part (%s): %r", what, error)
        return f'<p class="damaged">This part could not be made: {escape(repr(error))}</p>'


def _lead(run: Run) -> str:
    """Summary, and the headline of each evaluation."""
    tiles: list[str] = []
    for name, result in run.trained().items():
        metrics = metric_names([result])
        headlines = [metric for metric in HEADLINES if metric in metrics] or metrics[:1]
        tiles += [_tile(run, name, result, metric) for metric in headlines]
    shown = f'<ul class="tiles">{"".join(tiles[:NUM_TILES])}</ul>' if tiles else ""
    return f'<p class="lead">{escape(summary(run))}</p>\n{page.blocks(experiment(run))}\n{shown}'


def _tile(run: Run, evaluation: str, result: Result, metric: str) -> str:
    """One number, large, with what stands beside it."""
    beside = [
        f"{say_subject(subject)} {other.metrics[metric]:.1f}"
        for subject in BASELINES
        if (other := run.beside(evaluation, subject)) and metric in other.metrics
    ]
    best = metric.removesuffix(LAST_EPOCH)
    if best != metric and best in result.metrics:
        beside.append(f"best epoch, which flatters, {result.metrics[best]:.1f}")
    said = say_metric(metric, metric_names([result]))
    return (
        f"<li><b>{result.metrics[metric]:.1f}<small> %</small></b> <span>{escape(evaluation)}, {escape(said)}</span> "
        f"<small>{escape(', '.join(beside))}</small></li>"
    )


def _results(run: Run) -> str:
    tables = measured_tables(run) if run.finished else []
    notes = page.blocks([Text(line) for line in other_settings(run)]) if tables else ""
    settings = page.folded("Settings that are not the defaults", notes) if notes else ""
    beside = f'<div class="tables">\n{page.blocks(tables)}\n</div>' if tables else ""
    matched = page.blocks([Text(line) for line in matched_classes(run)])
    return "\n".join([beside, matched, settings, page.blocks(what_is_missing(run))])


def _published(run: Run) -> str:
    """Tables where the data are published ones, else the reason why there are none; nothing of a run not measured."""
    if not run.trained():
        return ""
    beside = page.blocks(published([run], with_settings=True))
    if beside:
        return beside
    names = [data_set_name(result) or "none of them" for result in run.trained().values() if result.metrics]
    measured = ", ".join(dict.fromkeys(names))
    said = (
        "Published numbers stand beside measured ones only where the data are the published ones, whole "
        f"({', '.join(data_sets())}). Measured here: {measured}."
    )
    like = most_like(run.config)
    title = f"For orientation: published on {like}, not measured here"
    alone = page.folded(title, page.blocks(published_alone(like)))
    return page.blocks([Text(said)]) + "\n" + alone


def _picture(run: Run, draw: Callable[[dict[str, Any]], str]) -> str:
    """What is drawn from the first gallery of the trained encoder; nothing if there is none."""
    found = next((result for result in run.trained().values() if result.module == GALLERY), None)
    return draw(found.details) if found else ""


def _origin(run: Run) -> str:
    """Where the numbers come from, down to every setting."""
    versions = run.origin.get("versions", {})
    pairs = [
        ("recipe", f"{run.recipe}: {recipes.recipe(run.recipe).source}"),
        ("expected of it", _expected(run)),
        ("encoder", pretraining(run)),
        ("began with", began_with(run)),
        ("length", "" if "imported" in run.origin else say_length(run)),
        ("code", "; then ".join(map(provenance.said, provenance.noted(run.origin))) or "unknown"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    configuration = json.dumps(to_json(run.config), indent=1)
    parts = [
        page.definitions([pair for pair in pairs if pair[1]]),
        page.folded("Configuration of the run", f"<pre><code>{escape(configuration, kept=NEWLINE)}</code></pre>"),
    ]
    if chosen := run.origin.get("chosen"):
        reasons = page.definitions([(str(name), str(said)) for name, said in chosen.items()])
        parts.insert(1, page.folded("What was chosen without being told, and why", reasons))
    for (name, subject), result in run.results.items():
        content = {key: value for key, value in asdict(result).items() if key != "details"}
        title = f"{name}, {say_subject(subject)}: {result.duration_s:,.1f} s on {result.device}, {result.finished}"
        parts.append(
            page.folded(title, f"<pre><code>{escape(json.dumps(content, indent=1), kept=NEWLINE)}</code></pre>")
        )
    return "\n".join(parts)


def _expected(run: Run) -> str:
    """What the recipe's source got, of a finished run that is the recipe in all but the places of its data."""
    recipe = recipes.recipe(run.recipe)
    mine, own = (flat(to_json(config)) | dict.fromkeys(DATA) for config in (run.config, recipe.pretrain))
    is_that = run.finished and "imported" not in run.origin and not differing_fields(own, mine)
    return recipe.expected if is_that else ""


def _runs(runs: list[Run]) -> str:
    """What the runs are, and in which fields of their configuration they differ."""
    about = Table("What they are", ["", *(str(run.path) for run in runs)], num_names=1)
    speeds = [run.images_per_s() for run in runs]
    about.rows += [
        ["recipe", *(run.recipe for run in runs)],
        ["encoder", *(pretraining(run) for run in runs)],
        ["images or clips/s", *("–" if speed is None else f"{speed:,.0f}" for speed in speeds)],
        ["trained for", *(run.duration() or "–" for run in runs)],
        ["finished", *("yes" if run.finished else "no" for run in runs)],
        ["code", *("; then ".join(map(provenance.said, provenance.noted(run.origin))) or "unknown" for run in runs)],
    ]
    known = [flat(to_json(run.config)) for run in runs]
    names = dict.fromkeys(name for one in known for name in one)
    fields = [name for name in names if len({repr(one.get(name)) for one in known}) > 1]
    settings = Table("Settings that differ", ["field", *(str(run.path) for run in runs)], num_names=1)
    settings.rows += [[name, *(str(one.get(name, "–")) for one in known)] for name in fields]
    return page.blocks([about, settings if fields else Text("Their configurations are the same.")])
