"""How a run begins: the weights that it is given, and its folder with the configuration."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from jobs.planning.plan import Plan
from jobs.planning.run_folder import write_config
from jobs.planning.starting_point import Notes
from slurm import chain, given_place, owner
from vicreg.config import PretrainConfig
from vicreg.exchange.given_weights import Given, keep, other_input, read_given
from vicreg.run_files import BEGINNING_FILE


def given_to(run: Path, config: PretrainConfig, console: Console) -> Given | None:
    """The weights that the run begins with; None where it begins with random ones, or has those it began with."""
    if not config.model.weights or (run / BEGINNING_FILE).is_file():
        return None
    given = read_given(config.model)
    notes = [*given.said, *other_input(given.weights, config.model, config.data)]
    console.print(*(f"weights: {note}" for note in notes), sep="\n", soft_wrap=True, highlight=False)
    return given


def begin(plan: Plan, given: Given | None, notes: Notes) -> None:
    """Write the run's configuration and what it begins with; ValueError where something is in the way."""
    if not given_place.speaks():
        return
    plan.require()
    with owner.alone(plan.run):
        if given_place.place() is None:
            chain.require_free(plan.run, plan.spec.name, plan.cluster)
        if given:
            keep(plan.run, given)
        origin = given.origin if given else None
        write_config(plan.run, plan.recipe, plan.config, beginning=origin, chosen=notes)
