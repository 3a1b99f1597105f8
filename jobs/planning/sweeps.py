"""Sweeps: one command, a run for each combination of values and each seed, in one folder that says what they are.

A value is what the option of that name takes, so anything that can be said of a run can be swept, its recipe too. What
was asked for stands in sweep.json; how far it is, in the runs. The same command goes on, and one with more values or
seeds adds runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from border.documents import read_json
from border.text import suite_command
from disk.whole_files import write_text
from jobs.planning.cli import CONFIG_FILE
from vicreg.config_json import differing_fields, to_json
from vicreg.schema import SCHEMA

SWEEP_FILE = "sweep.json"
SEED = "train.seed"
NOT_IN_NAMES = re.compile(r"[^\w.+-]+")
MAX_VALUE_IN_NAME = 40
SWEPT_BESIDE_FIELDS = ("recipe", "views")  # options without a dot that say what a run is


@dataclass(frozen=True)
class SweepOptions:
    """Several runs by one command."""

    seeds: int = 1
    """Runs of each combination, with the seed of --train.seed and those that follow it."""
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An option with the values that it takes in turn, such as optimizer.base-lr=0.1,0.2,0.4; of several such, every
    combination is run. --run is then the folder above the runs (runs/RECIPE-sweep if empty)."""
    at_once: int = 0
    """On a cluster, the most pretrainings of a sweep that run at a time; 0: as many as it has room for."""

    @property
    def is_asked(self) -> bool:
        """Whether more than one run was asked for."""
        return bool(self.sweep) or self.seeds != 1


@dataclass(frozen=True)
class Axis:
    """An option and the values that it takes in turn."""

    option: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    name: str
    """Of its folder."""
    settings: dict[str, str]
    """Options with their values, as they were typed."""
    seed: int


@dataclass(frozen=True)
class Sweep:
    """What was asked for, as it stands in sweep.json."""

    options: tuple[str, ...]
    """Which are swept."""
    trials: tuple[Trial, ...]
    base: dict[str, Any]
    """The configuration from which all depart, in JSON form."""
    command: tuple[str, ...]
    """What was typed behind jobs/pretrain.py."""
    schema: int = SCHEMA
    """Of `base`."""

    def combinations(self) -> dict[tuple[str, ...], list[Trial]]:
        """The runs of each combination of values, which differ in their seeds, in the order of their first."""
        found: dict[tuple[str, ...], list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(tuple(trial.settings[option] for option in self.options), []).append(trial)
        return found


def is_sweep(folder: Path) -> bool:
    """Whether a folder is one of a sweep."""
    return (folder / SWEEP_FILE).is_file()


def read_sweep(folder: Path) -> Sweep:
    """The sweep of a folder; ValueError with the cure for a damaged file."""
    path, cure = folder / SWEEP_FILE, f"remove {SWEEP_FILE}: the same command writes it again"
    sweep = read_json(path, Sweep, cure)
    for trial in sweep.trials:
        if Path(trial.name).name != trial.name or {*sweep.options} != trial.settings.keys():
            raise ValueError(f"{path} is damaged (the run {trial.name!r} is none of its); {cure}")
    return sweep


def run_folders(folder: Path) -> list[Path]:
    """The runs of a sweep that have begun."""
    return [folder / trial.name for trial in read_sweep(folder).trials if (folder / trial.name / CONFIG_FILE).is_file()]


def without_sweep(arguments: Sequence[str]) -> list[str]:
    """A command line without what makes it a sweep."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--seeds", "--sweep", "--at-once", "--at_once"):
        parser.add_argument(option)
    return parser.parse_known_args(arguments)[1]


def axes_of(options: SweepOptions) -> tuple[Axis, ...]:
    """What is swept; ValueError for what cannot be."""
    if options.seeds < 1:
        raise ValueError(f"seeds is {options.seeds}, allowed: 1 or more")
    if options.at_once < 0:
        raise ValueError(f"at-once is {options.at_once}, allowed: 0 (no limit) or more")
    found: dict[str, Axis] = {}
    for text in options.sweep:
        name, equals, values = text.partition("=")
        option = name.strip().removeprefix("--").replace("_", "-")
        split = tuple(value.strip() for value in values.split(","))
        form = "OPTION=VALUE,VALUE,..., such as optimizer.base-lr=0.1,0.2,0.4"
        if not option or not equals or not all(split):
            raise ValueError(f"sweep is {text!r}, allowed: {form}")
        if "." not in option and option not in SWEPT_BESIDE_FIELDS:
            raise ValueError(
                f"sweep is {text!r}, allowed: options that say what a run is, by their full names "
                f"({', '.join(SWEPT_BESIDE_FIELDS)}, and all that have a dot); see --help"
            )
        if option in found or len(set(split)) < len(split):
            raise ValueError(f"sweep is {text!r}, allowed: every option once, and every value once")
        if option == SEED and options.seeds > 1:
            raise ValueError(f"sweep is {text!r}, allowed with --seeds: other options; give one of both")
        found[option] = Axis(option, split)
    return tuple(found.values())


def trials_of(axes: Sequence[Axis], seeds: Sequence[int]) -> tuple[Trial, ...]:
    """A run for each combination and seed; ValueError where two would have one folder."""
    short = [axis.option.rpartition(".")[2] for axis in axes]
    titles = [name if short.count(name) == 1 else axis.option for name, axis in zip(short, axes, strict=True)]
    seeded = SEED not in [axis.option for axis in axes]
    trials: dict[str, Trial] = {}
    for values in itertools.product(*(axis.values for axis in axes)):
        settings = {axis.option: value for axis, value in zip(axes, values, strict=True)}
        parts = [f"{title}-{_in_a_name(value)}" for title, value in zip(titles, values, strict=True)]
        for seed in seeds if seeded else [int(settings[SEED])]:
            name = "_".join([*parts, *([f"seed-{seed}"] if seeded else [])])
            if name in trials:
                raise ValueError(f"sweep has {settings} and {trials[name].settings}, which would both be run in {name}")
            trials[name] = Trial(name, settings, seed)
    return tuple(trials.values())


def _in_a_name(value: str) -> str:
    return NOT_IN_NAMES.sub("-", value)[-MAX_VALUE_IN_NAME:].strip(".-") or "x"


def arguments_of(trial: Trial, plain: Sequence[str], run: Path) -> list[str]:
    """The command line of one run; the last of several values for an option is the one that counts."""
    chosen = [word for option, value in trial.settings.items() for word in (f"--{option}", *shlex.split(value))]
    seed = [] if SEED in trial.settings else [f"--{SEED}", str(trial.seed)]
    return [*plain, *chosen, *seed, "--run", str(run)]


def sweep_of(
    options: SweepOptions, folder: Path, base: dict[str, Any], arguments: Sequence[str]
) -> tuple[Sweep, Sweep]:
    """What was asked for now, and the same with the runs that the folder has already.

    base: the configuration of the command line without what is swept. ValueError for what cannot be swept, and where
    the folder is a run or of another sweep.
    """
    if (folder / CONFIG_FILE).exists():
        raise ValueError(f"{folder} is a run, and no folder for a sweep; choose another with --run")
    axes, first = axes_of(options), int(base["train"]["seed"])
    trials = trials_of(axes, range(first, first + options.seeds))
    asked = Sweep(tuple(axis.option for axis in axes), trials, base, tuple(arguments))
    if not is_sweep(folder):
        return asked, asked
    there = read_sweep(folder)
    if there.options != asked.options:
        raise ValueError(
            f"{folder} is a sweep of {', '.join(there.options) or 'seeds'}, not of "
            f"{', '.join(asked.options) or 'seeds'}; choose another folder with --run"
        )
    from vicreg import methods  # torch takes two seconds to import, and who looks at a sweep needs it for nothing

    before = to_json(methods.read_config(there.base, there.schema))
    differing = [line for line in differing_fields(before, base) if not line.startswith(f"{SEED}:")]
    if differing:
        raise ValueError(
            f"{folder} was started with another configuration; go on with the same, or choose another folder with "
            "--run:\n  " + "\n  ".join(differing)
        )
    both = {trial.name: trial for trial in (*there.trials, *trials)}
    return asked, replace(asked, trials=tuple(both.values()))


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Keep in the folder what was asked for."""
    write_text(folder / SWEEP_FILE, json.dumps(asdict(sweep), indent=1))


def require_no_sweep(folder: Path) -> None:
    """ValueError where one run was asked for in the folder of a sweep."""
    if is_sweep(folder):
        again = suite_command("jobs/pretrain.py", *read_sweep(folder).command)
        raise ValueError(f"{folder} is a sweep, whose runs are the folders in it; go on with all of it by  {again}")
