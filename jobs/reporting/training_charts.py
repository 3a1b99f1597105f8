"""What a report draws as curves and bars: training, heads trained on the labels, checkpoints, average precisions.

Whatever a run or a result does not have is left out; of several runs each has a colour and dashes of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jobs.reporting.document import Text
from jobs.reporting.figures import THIN, Bar, Curve, bar_chart, bar_key, line_chart, line_key, thinned
from jobs.reporting.measured_run import Run
from jobs.reporting.page import blocks, escape, figure, legend
from jobs.reporting.result_tables import metric_names, say_metric
from vicreg import methods
from vicreg.evals.results import PIXELS, RANDOM, STEP, SUBJECTS, TRAINED, Result
from vicreg.method_file import Term

WATCHED = (  # field of metrics.jsonl, title, what it says: of every method, below the terms of its own
    (
        "online_top1",
        "Online linear head",
        "Validation top-1 in percent; the head learns beside the encoder.",
    ),
    ("knn_top1", "Nearest neighbours", "Validation top-1 in percent while pretraining goes on."),
    ("gradient_norm", "Gradient norm", "Of all gradients together, after the sum over the ranks."),
    ("learning_rate", "Learning rate", "Warm-up, then a cosine."),
    ("images_per_s", "Speed", "Images or clips per second, all ranks together, between logged steps."),
    (
        "step_ms_p95",
        "Step, 95th percentile",
        "Milliseconds that 95 % of the steps stayed under.",
    ),
    ("mfu", "Model FLOP utilisation", "The model's arithmetic over what the GPU could do at best."),
    ("data_wait_share", "Waiting for data", "Share of the time in which the step waited for its batch."),
    (
        "slowest_factor",
        "Slowest rank",
        "Its own time for a step over the median of the ranks; all others wait for it.",
    ),
)
MEASURES = (
    ("top1", "top-1", "Validation accuracy in percent after each epoch."),
    ("top5", "top-5", "Validation accuracy in percent after each epoch."),
    ("loss", "loss", "Mean training loss of each epoch."),
)
BARS_IN_A_CHART, MAX_BARS = 30, 60


def training(runs: Sequence[Run]) -> str:
    """Curves of pretraining over epochs; nothing without metrics."""
    drawn: list[str] = []
    group = 1
    for field, title, explanation, may_be_log in _fields(runs):
        curves: list[Curve] = []
        for number, run in enumerate(runs):
            places, values = run.logged(field)
            if any(value is not None for value in values):
                curve, size = thinned(Curve(places, values, number))
                curves.append(curve)
                group = max(group, size)
        if curves:
            chart = line_chart(f"training-{field}", curves, "epoch", may_be_log)
            drawn.append(figure(chart, f"{title}.", explanation, f"{title} over epochs, {_ends(curves)}"))
    if not drawn:
        return ""
    means = f" A point is the mean of up to {group} logged steps." if group > 1 else ""
    every = max(run.every for run in runs)
    means += f" Of {every} logged steps one was looked at." if every > 1 else ""
    epochs = blocks([Text(f"Terms are those of the global batch before their weights.{means}")])
    return epochs + _runs_legend(runs) + _grid(drawn)


def _fields(runs: Sequence[Run]) -> list[tuple[str, str, str, bool]]:
    """Fields of metrics.jsonl in the order in which they are drawn, each with title, sentence and whether by decades.

    Terms of the methods come first; methods that log one of the same name say it in the first one's words.
    """
    terms: dict[str, Term] = {}
    for run in runs:
        terms = dict(methods.load(run.config.method.name).TERMS) | terms
    own = [(name, term.title, term.sentence, term.spans_decades) for name, term in terms.items()]
    return own + [(*field, False) for field in WATCHED]


def evaluations(runs: Sequence[Run]) -> str:
    """Curves of evaluations that train on labels and keep theirs."""
    parts: list[str] = []
    for evaluation in dict.fromkeys(name for run in runs for name in run.trained()):
        curves, entries = _of_run(runs[0], evaluation) if len(runs) == 1 else _of_runs(runs, evaluation)
        drawn = [
            figure(
                line_chart(f"{_identifier(evaluation)}-{measure}", curves[measure], "epoch", measure == "loss"),
                f"{evaluation}, {title}.",
                explanation,
                f"{evaluation}, {title} over epochs, {_ends(curves[measure])}",
            )
            for measure, title, explanation in MEASURES
            if curves.get(measure)
        ]
        if drawn:
            parts.append(f"<h3>{escape(evaluation)}</h3>\n{legend(entries)}\n{_grid(drawn)}")
    return "\n".join(parts)


def _heads(result: Result | None) -> list[dict[str, Any]]:
    """The heads whose curves a result keeps, the one of the published settings first."""
    details = result.details if result else {}
    heads = details.get("heads")
    if not isinstance(heads, list):
        heads = [details | {"published": True}]
    kept = [
        head for head in heads if isinstance(head, dict) and any(_is_curve(head.get(name)) for name, *_ in MEASURES)
    ]
    return sorted(kept, key=lambda head: not head.get("published"))


def _is_curve(values: Any) -> bool:
    return isinstance(values, list) and any(isinstance(value, int | float) for value in values)


def _add(curves: dict[str, list[Curve]], head: dict[str, Any], number: int) -> None:
    """The curves of a head, by measure."""
    for measure, *_ in MEASURES:
        values = head.get(measure)
        if isinstance(values, list) and _is_curve(values):
            known = [float(value) if isinstance(value, int | float) else None for value in values]
            curve, _ = thinned(Curve([epoch + 1.0 for epoch in range(len(known))], known, number))
            curves.setdefault(measure, []).append(curve)


def _of_run(run: Run, evaluation: str) -> tuple[dict[str, list[Curve]], list[tuple[str, str]]]:
    """All heads of one run: the published one, the best of the grid, the others, the first one on random weights."""
    curves: dict[str, list[Curve]] = {}
    result = run.results.get((evaluation, TRAINED))
    heads = _heads(result)
    best = result.details.get("grid_best", {}) if result else {}
    entries: list[tuple[str, str]] = []
    for place, head in enumerate(heads):
        is_best = bool(best) and all(head.get(name) == best[name] for name in best)
        number = 0 if place == 0 else 1 if is_best else THIN
        _add(curves, head, number)
        if number == 0:
            entries.append(
                (line_key(0), "trained encoder" + _settings(head) + (", the best of all" if is_best else ""))
            )
        elif number == 1:
            entries.append((line_key(1), f"best of {len(heads)} heads{_settings(head)}"))
    if any(curve.number == THIN for some in curves.values() for curve in some):
        entries.append((line_key(THIN), "the other heads"))
    for head in _heads(run.beside(evaluation, RANDOM))[: len(heads[:1])]:
        _add(curves, head, 2)
        entries.append((line_key(2), SUBJECTS[RANDOM]))
    return curves, entries


def _of_runs(runs: Sequence[Run], evaluation: str) -> tuple[dict[str, list[Curve]], list[tuple[str, str]]]:
    """The head with the published settings of every run."""
    curves: dict[str, list[Curve]] = {}
    entries: list[tuple[str, str]] = []
    for number, run in enumerate(runs):
        for head in _heads(run.results.get((evaluation, TRAINED)))[:1]:
            _add(curves, head, number)
            entries.append((line_key(number), f"{run.path}{_settings(head)}"))
    return curves, entries


def _settings(head: dict[str, Any]) -> str:
    """Learning rate and weight decay of a head, where it says them."""
    known = [f"{said} {head[name]:g}" for name, said in (("lr", "rate"), ("weight_decay", "decay")) if name in head]
    return f" ({', '.join(known)})" if known else ""


def checkpoints(run: Run) -> str:
    """What was measured of the checkpoints along training, by evaluation; nothing for fewer than two."""
    drawn: list[str] = []
    for evaluation in dict.fromkeys(name for name, _ in run.results):
        found = {
            int(subject.removeprefix(STEP)): result
            for (name, subject), result in run.results.items()
            if name == evaluation and subject.startswith(STEP)
        }
        if len(found) < 2:
            continue
        names = metric_names(list(found.values()))
        for metric in names:
            steps = sorted(found)
            curve = Curve([float(step) for step in steps], [found[step].metrics.get(metric) for step in steps])
            title = f"{evaluation}, {say_metric(metric, names)}"
            chart = line_chart(f"{_identifier(evaluation)}-{_identifier(metric)}", [curve], "step")
            drawn.append(figure(chart, f"{title}.", "Percent.", f"{title} over steps, {_ends([curve])}"))
    return _grid(drawn) if drawn else ""


def classes(run: Run) -> str:
    """Average precision of each class, where an evaluation keeps it."""
    parts: list[str] = []
    for evaluation, result in run.trained().items():
        found = _average_precisions(result)
        if not found:
            continue
        beside = [
            (number, subject, _average_precisions(run.beside(evaluation, subject)))
            for number, subject in enumerate((RANDOM, PIXELS), 1)
        ]
        ordered = sorted(found, key=lambda name: -found[name])
        shown = ordered if len(ordered) <= MAX_BARS else ordered[: MAX_BARS // 2] + ordered[-MAX_BARS // 2 :]
        bars = [Bar(name, found[name], tuple(other.get(name) for *_, other in beside)) for name in shown]
        entries = [(bar_key(0), SUBJECTS[TRAINED])] + [
            (bar_key(n), SUBJECTS[subject]) for n, subject, other in beside if other
        ]
        charts = [
            figure(
                bar_chart(f"{_identifier(evaluation)}-{start}", bars[start : start + BARS_IN_A_CHART], "percent"),
                f"{evaluation}.",
                f"Average precision, classes {start + 1} to {start + len(bars[start : start + BARS_IN_A_CHART])} of "
                f"{len(bars)} shown, the best first.",
                "; ".join(f"{bar.name} {bar.value:.1f}" for bar in bars[start : start + BARS_IN_A_CHART]),
            )
            for start in range(0, len(bars), BARS_IN_A_CHART)
        ]
        notes = [Text(f"The {MAX_BARS // 2} best and worst of {len(found)} classes.")] if shown != ordered else []
        left_out = result.details.get("left_out")
        if isinstance(left_out, dict) and left_out:
            notes.append(Text("Left out of the mean: " + "; ".join(f"{k}: {v}" for k, v in left_out.items()) + "."))
        parts.append(f"<h3>{escape(evaluation)}</h3>\n{legend(entries)}\n{_grid(charts)}\n{blocks(notes)}")
    return "\n".join(parts)


def _average_precisions(result: Result | None) -> dict[str, float]:
    kept = result.details.get("classes") if result else None
    if not isinstance(kept, dict):
        return {}
    values = {name: one.get("ap") for name, one in kept.items() if isinstance(one, dict)}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _runs_legend(runs: Sequence[Run]) -> str:
    return legend([(line_key(number), str(run.path)) for number, run in enumerate(runs)]) if len(runs) > 1 else ""


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="charts">\n{"".join(figures)}\n</div>'


def _ends(curves: Sequence[Curve]) -> str:
    """First and last value of the curves that stand out, for readers who do not see them."""
    known = [[y for y in curve.ys if y is not None] for curve in curves if curve.number != THIN]
    return "; ".join(f"from {ys[0]:.4g} to {ys[-1]:.4g}" for ys in known if ys)


def _identifier(name: str) -> str:
    """A name as the beginning of an id."""
    return "x" + re.sub(r"[^a-z0-9]+", "-", name.lower())
