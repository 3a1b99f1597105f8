"""The runs of a sweep as one table: what was set, where each is, what it is worth so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from border.text import visible
from jobs.planning.sweeps import read_sweep
from jobs.watching.followed_files import online_measures
from jobs.watching.job_states import JobState
from jobs.watching.run_states import NOT_STARTED, run_state
from jobs.watching.wording import clock
from slurm.attempts import FINISHED

STYLES = {FINISHED: "green", "RUNNING": "cyan", "PENDING": "yellow", "stopped": "yellow", NOT_STARTED: "dim"}
OTHER_STYLE = "red"


def sweep_table(folder: Path, runs: Mapping[Path, Sequence[JobState]]) -> Table:
    """One row per run, in the order of the sweep; those that have not begun too."""
    sweep = read_sweep(folder)
    states = {trial.name: run_state(folder / trial.name, runs.get(folder / trial.name, ())) for trial in sweep.trials}
    done = sum(state.state == FINISHED for state in states.values())
    title = Text.assemble((visible(folder), "bold"), f"  {done} of {len(states)} runs finished")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, expand=True)
    short = [option.rpartition(".")[2] for option in sweep.options]
    titles = [name if short.count(name) == 1 else option for name, option in zip(short, sweep.options, strict=True)]
    for name in (*titles, "seed"):
        table.add_column(Text(visible(name)), no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    table.add_column("best online", justify="right", no_wrap=True)
    table.add_column("news", ratio=1, overflow="fold")
    for trial in sweep.trials:
        state = states[trial.name]
        progress = state.progress
        best = online_measures(folder / trial.name).best
        news = ": ".join(part for part in (state.job, state.note) if part)
        style = STYLES.get(state.state, "cyan" if state.state.isupper() else OTHER_STYLE)
        table.add_row(
            *(Text(visible(trial.settings[option])) for option in sweep.options),
            str(trial.seed),
            Text(visible(state.state), style=style),
            f"{100 * progress.done // progress.total} %" if progress.total else "",
            clock(progress.eta_s) if progress.eta_s else "",
            Text(f"{next(iter(best.values()))[0]:.1f} %" if best else ""),
            Text(visible(news)),
        )
    return table
