"""What came out of a sweep: mean and standard deviation over the seeds of each combination, as tables and curves.

Only runs that are finished count; the others are named. The deviation is that of a sample (divided by n - 1).
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from border.text import suite_command
from jobs.planning import hints
from jobs.planning.sweeps import Sweep, Trial, read_sweep
from jobs.reporting import page
from jobs.reporting.document import Block, Code, Heading, Table, Text
from jobs.reporting.figures import Spread, line_key, spread_chart
from jobs.reporting.measured_run import Run, load_run
from jobs.reporting.page import Section, figure, legend
from jobs.reporting.result_tables import WHAT_FLATTERS, flatters, metric_names, say_metric
from vicreg.stop_rule import early_end_of

log = logging.getLogger(__name__)

ONLINE = "while it learned"
"""Where the measures of the end of a run stand that were taken online, beside the names of the evaluations."""
Measure = tuple[str, str]
"""Evaluation and metric."""


@dataclass(frozen=True)
class SweptRuns:
    """A sweep with what is known of its runs."""

    folder: Path
    sweep: Sweep
    runs: dict[str, Run]
    """The finished ones, by the names of their trials."""
    undone: dict[str, str] = field(default_factory=dict)
    """Why the others do not count."""

    def titles(self) -> list[str]:
        """How each swept option is called, short where that is clear."""
        short = [option.rpartition(".")[2] for option in self.sweep.options]
        return [name if short.count(name) == 1 else full for name, full in zip(short, self.sweep.options, strict=True)]

    def said(self, values: Sequence[str]) -> str:
        """A combination in words."""
        named = [f"{title} {value}" for title, value in zip(self.titles(), values, strict=True)]
        return ", ".join(named) or "all runs"

    def measures(self) -> list[Measure]:
        """Everything that was measured of some run, in the recipe's order, what was measured online at last."""
        found: dict[Measure, None] = {}
        for run in self.runs.values():
            for name, result in run.trained().items():
                found |= dict.fromkeys((name, metric) for metric in metric_names([result]))
        for name in ("online_top1", "knn_top1"):
            if any(run.logged(name)[1] for run in self.runs.values()):
                found[ONLINE, name] = None
        return list(found)

    def values(self, trials: Sequence[Trial], measure: Measure) -> list[float]:
        """What was measured of these runs."""
        evaluation, metric = measure
        found: list[float | None] = []
        for run in (self.runs[trial.name] for trial in trials if trial.name in self.runs):
            if evaluation == ONLINE:
                found += run.logged(metric)[1][-1:]
            elif evaluation in run.trained():
                found.append(run.trained()[evaluation].metrics.get(metric))
        return [value for value in found if value is not None]


def load_sweep(folder: Path) -> SweptRuns:
    """Everything that lies complete in a sweep's folder; ValueError where it is none."""
    sweep = read_sweep(folder)
    runs: dict[str, Run] = {}
    undone: dict[str, str] = {}
    for trial in sweep.trials:
        try:
            run = load_run(folder / trial.name)
        except (OSError, ValueError) as error:
            begun = (folder / trial.name).is_dir()
            undone[trial.name] = str(error) if begun else "not started"
            continue
        if run.finished:
            runs[trial.name] = run
        else:
            epoch = run.lines[-1]["epoch"] + 1 if run.lines else 0
            undone[trial.name] = f"in epoch {epoch} of {run.config.train.epochs}"
    return SweptRuns(folder, sweep, runs, undone)


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Of a sample; a deviation takes two values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def say_measure(measure: Measure, among: Sequence[Measure] = ()) -> str:
    """linear, top-1; among others of its evaluation what flatters is named so."""
    evaluation, metric = measure
    named = {"online_top1": "linear head", "knn_top1": "k-NN"}
    names = [name for _, name in among]
    return f"{named[metric]} {ONLINE}" if evaluation == ONLINE else f"{evaluation}, {say_metric(metric, names)}"


def tables(swept: SweptRuns) -> list[Table]:
    """A table for each evaluation, a row for each combination; the highest mean of each column is marked."""
    made: list[Table] = []
    measures = swept.measures()
    for evaluation in dict.fromkeys(name for name, _ in measures):
        own = [measure for measure in measures if measure[0] == evaluation]
        said = [say_measure(one, own).removeprefix(f"{evaluation}, ").removesuffix(f" {ONLINE}") for one in own]
        headers = [*swept.titles(), "runs", *said]
        names = len(swept.titles()) + 1
        marked = ", best mean marked" if len(swept.sweep.combinations()) > 1 else ""
        table = Table(f"{evaluation}: percent, mean ± deviation over seeds{marked}", headers, names)
        means: list[list[float | None]] = []
        for values, trials in swept.sweep.combinations().items():
            found = [swept.values(trials, measure) for measure in own]
            counts = max(map(len, found))
            spread = [mean_and_deviation(some) for some in found]
            means.append([None if mean is None else round(mean, 1) for mean, _ in spread])
            cells = [mean for mean, _ in spread]
            done = f"{counts} of {len(trials)}" + ("" if counts == len(trials) else ", not finished")
            table.add([*values, done], cells, [deviation for _, deviation in spread], mark=False)
        for column in range(len(own)):
            known = [row[column] for row in means if row[column] is not None]
            table.best |= {(row, names + column) for row in range(len(means)) if known and len(means) > 1
                           and means[row][column] == max(value for value in known if value is not None)}  # fmt: skip
        made.append(table)
    return made


def best(swept: SweptRuns) -> str:
    """One sentence: the combination with the highest mean of the first measure; empty where nothing is measured."""
    measures = swept.measures()
    if not measures:
        return ""
    found = {
        values: mean
        for values, trials in swept.sweep.combinations().items()
        if (mean := mean_and_deviation(swept.values(trials, measures[0]))[0]) is not None
    }
    if len(found) < 2:
        return ""
    winner = max(found, key=lambda values: found[values])
    own = swept.values(swept.sweep.combinations()[winner], measures[0])
    deviation = mean_and_deviation(own)[1]
    spread = "" if deviation is None else f" ± {deviation:.1f}"
    runs = "1 run" if len(own) == 1 else f"{len(own)} runs"
    so_far = " so far" if swept.undone else ""
    return f"Best{so_far} by {say_measure(measures[0])}: {swept.said(winner)} ({found[winner]:.1f}{spread} %, {runs})."


def what_flatters(swept: SweptRuns) -> list[Block]:
    """What the mark at some measures says, where there is one."""
    each = [result.metrics for run in swept.runs.values() for result in run.trained().values()]
    return [Text(WHAT_FLATTERS)] if any(flatters(name, metrics) for metrics in each for name in metrics) else []


def what_is_missing(swept: SweptRuns) -> list[Block]:
    """Runs that do not count and runs that ended early, by name, and the command that goes on."""
    early = [f"{name} ({why})" for name in swept.runs if (why := early_end_of(swept.folder / name))]
    blocks: list[Block] = [Text(f"Ended early: {'; '.join(early)}.")] if early else []
    if swept.undone:
        said = "; ".join(f"{name} ({why})" for name, why in swept.undone.items())
        again = suite_command("jobs/pretrain.py", *swept.sweep.command)
        blocks += [Text(f"Not finished: {said}. Go on with"), Code(again)]
    unmeasured = [name for name, run in swept.runs.items() if not run.trained()]
    if unmeasured:
        blocks += [Text("Finished and not measured: " + ", ".join(unmeasured) + ". Measure each with")]
        blocks += [Code(hints.eval_all(swept.folder / unmeasured[0]))]
    return blocks


def summary(swept: SweptRuns) -> str:
    """What was swept, and how far it is."""
    swept_over = ", ".join(swept.sweep.options) or "seeds alone"
    combinations, runs = len(swept.sweep.combinations()), len(swept.sweep.trials)
    return (
        f"Sweep over {swept_over}: {combinations} combination{'s' * (combinations != 1)}, {runs} runs, of which "
        f"{len(swept.runs)} are finished."
    )


def sweep_blocks(swept: SweptRuns) -> list[Block]:
    """The report of a sweep."""
    sentence = best(swept)
    found = [Text(sentence)] if sentence else []
    about = [*what_flatters(swept), *what_is_missing(swept)]
    return [Heading(str(swept.folder)), Text(summary(swept)), *found, *tables(swept), *about]


def charts(swept: SweptRuns) -> str:
    """The first measure of each evaluation over the first swept option, a curve for each value of the others."""
    options = swept.sweep.options
    if not options:
        return ""
    places = list(dict.fromkeys(trial.settings[options[0]] for trial in swept.sweep.trials))
    places = sorted(places, key=float) if all(map(_is_number, places)) else places
    others = dict.fromkeys(values[1:] for values in swept.sweep.combinations())
    firsts = {evaluation: (evaluation, metric) for evaluation, metric in reversed(swept.measures())}
    drawn: list[str] = []
    for number, measure in enumerate(reversed(firsts.values())):
        series: list[Spread] = []
        for color, rest in enumerate(others):
            trials = [swept.sweep.combinations().get((place, *rest), []) for place in places]
            series.append(Spread([swept.values(some, measure) for some in trials], color))
        title = swept.titles()[0]
        chart = spread_chart(f"sweep-{number}", places, series, title)
        means = [mean_and_deviation(some)[0] for some in series[0].values]
        told = "; ".join(f"{place}: {mean:.1f}" for place, mean in zip(places, means, strict=True) if mean is not None)
        about = "Percent; a dot is a run, the line goes through the means, bars are a standard deviation up and down."
        drawn.append(figure(chart, f"{say_measure(measure)}.", about, f"{say_measure(measure)} over {title}, {told}"))
    keys = [
        (line_key(number), ", ".join(f"{t} {v}" for t, v in zip(swept.titles()[1:], rest, strict=True)))
        for number, rest in enumerate(others)
        if rest
    ]
    return f'{legend(keys) if keys else ""}<div class="charts">\n{"".join(drawn)}\n</div>' if drawn else ""


def sweep_page(swept: SweptRuns) -> str:
    """The same as a page, with charts."""
    sentence = best(swept)
    lead = f'<p class="lead">{page.escape(summary(swept))}</p>\n{page.blocks([Text(sentence)] if sentence else [])}'
    missing = page.blocks([*what_flatters(swept), *what_is_missing(swept)])
    drawn = charts(swept)
    sections = [
        *([Section("values", "Over the swept values", drawn)] if drawn else []),
        Section("results", "Results", f'<div class="tables">\n{page.blocks(tables(swept))}\n</div>\n{missing}'),
    ]
    return page.page(str(swept.folder), lead, sections)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
