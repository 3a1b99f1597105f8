"""Pretrain: one recipe, any field overridden, on the ranks of this machine; the same command goes on after a stop."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from dataprep.beton import open_beton
from jobs import recipes
from jobs.cli import CONFIG_FILE, INTERRUPTED_EXIT_CODE, configure_logging, user_errors
from slurm.executor import Task, launch
from slurm.requeue import StopFlag
from vicreg import distributed
from vicreg.config import PretrainConfig, differing_fields, from_json, official_views, paper_views, to_json
from vicreg.export import ENCODER_FILE
from vicreg.order import batches_per_epoch
from vicreg.train import Outcome, train

JOB_FOLDER = Path("jobs") / "pretrain"
RENDEZVOUS_TIMEOUT_S = 300.0
VIEWS = {"official": official_views, "paper": paper_views}


@dataclass(frozen=True)
class Command:
    """Pretrain with VICReg. Options start from the recipe's values; a run folder that has a checkpoint is resumed."""

    recipe: str = "imagenet-1000ep"
    """Named run to start from."""
    views: Literal["recipe", "official", "paper"] = "recipe"
    """Augmentation to start from: the recipe's, the official code's asymmetric pair, or the paper's symmetric text."""
    run: str = ""
    """Run folder; runs/RECIPE if empty."""
    ranks: int = 0
    """Ranks on this machine; 0 for one per GPU, or one on a machine without GPUs."""
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)


def main(arguments: list[str]) -> int:
    """Parse, check, run, say how it ended; returns the exit code."""
    with user_errors():
        command = parse(arguments)
        run = Path(command.run or f"runs/{command.recipe}")
        ranks = command.ranks or max(1, torch.cuda.device_count())
        console = Console()
        preflight(command.config, ranks)
        write_run_config(run, command.recipe, command.config)
        if (run / ENCODER_FILE).exists():
            console.print(f"{run} is finished; choose another folder with --run to start anew", soft_wrap=True)
            return 0
        console.print(summary(command, run, ranks))
        launch("jobs.pretrain.run_job", {"run": str(run)}, run / JOB_FOLDER, ranks)
        if not (run / ENCODER_FILE).exists():
            console.print(f"stopped and saved; the same command goes on from there ({run})", soft_wrap=True)
            return INTERRUPTED_EXIT_CODE
        console.print(
            f"finished: [bold]{run / ENCODER_FILE}[/]; measure it with  python jobs/eval_all.py {run}", soft_wrap=True
        )
        return 0


def parse(arguments: list[str]) -> Command:
    """The command line, whose defaults are those of the recipe that it names."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", default=Command.recipe)
    early.add_argument("--views", default=Command.views)
    chosen, _ = early.parse_known_args(arguments)
    recipe = recipes.recipe(chosen.recipe)
    config = recipe.pretrain
    if chosen.views in VIEWS:
        view_a, view_b = VIEWS[chosen.views]()
        config = replace(config, view_a=view_a, view_b=view_b)
    described = f"{recipe.source}.\nExpected: {recipe.expected}.\nRecipes: {', '.join(recipes.RECIPES)}."
    return tyro.cli(
        Command,
        args=arguments,
        default=Command(recipe=recipe.name, views=chosen.views, config=config),
        description=f"{Command.__doc__}\n\nRecipe {recipe.name}: {described}",
        config=(tyro.conf.FlagConversionOff,),
    )


def preflight(config: PretrainConfig, ranks: int) -> None:
    """Everything that can be known before a rank starts; ValueError with the cure otherwise."""
    if ranks < 1:
        raise ValueError(f"ranks is {ranks}, allowed: 0 (one per GPU) or more")
    if torch.cuda.is_available() and ranks > torch.cuda.device_count():
        raise ValueError(f"ranks is {ranks}, allowed: up to the number of GPUs here, {torch.cuda.device_count()}")
    if config.train.global_batch % ranks:
        raise ValueError(f"global_batch is {config.train.global_batch}, allowed: a multiple of the {ranks} ranks")
    beton = open_beton(Path(config.data.train))
    batches_per_epoch(beton.num_samples, config.train.global_batch)


def write_run_config(run: Path, recipe: str, config: PretrainConfig) -> None:
    """Keep the resolved configuration in the run folder, or refuse when it holds another one."""
    path = run / CONFIG_FILE
    if path.exists():
        changed = differing_fields(json.loads(path.read_text())["pretrain"], to_json(config))
        if changed:
            raise ValueError(
                f"{run} was started with another configuration; go on with the same, or choose another folder with "
                "--run:\n  " + "\n  ".join(changed)
            )
    run.mkdir(parents=True, exist_ok=True)
    content = {"recipe": recipe, "pretrain": to_json(config), "commit": _commit(), "versions": _versions()}
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(content, indent=1))
    beside.replace(path)


def summary(command: Command, run: Path, ranks: int) -> Table:
    """What is about to happen, as a small table."""
    config = command.config
    beton = open_beton(Path(config.data.train))
    steps = batches_per_epoch(beton.num_samples, config.train.global_batch)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_row("recipe", command.recipe)
    table.add_row("data", f"{config.data.train}: {beton.num_samples:,} images, {beton.memory.size / 2**20:,.1f} MiB")
    table.add_row("model", f"{config.model.encoder}, expander {config.model.expander}, {config.data.image_size} px")
    table.add_row("length", f"{config.train.epochs} epochs of {steps} steps, {config.train.global_batch} images a step")
    table.add_row("on", f"{ranks} {'rank' if ranks == 1 else 'ranks'}, {device}")
    table.add_row("run folder", str(run))
    return table


def run_job(task: Task, run: str) -> None:
    """What every rank does, wherever it was placed: take the configuration from the run folder and train."""
    should_stop = StopFlag()
    folder = Path(run)
    console = Console(force_terminal=False) if task.rank else Console()
    configure_logging(console, task.rank, folder / JOB_FOLDER)
    placement = distributed.Placement(task.rank, task.world_size, task.local_rank, task.local_size)
    with user_errors(), distributed.connected(placement, Path(task.rendezvous), RENDEZVOUS_TIMEOUT_S):
        content: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
        outcome = train(from_json(PretrainConfig, content["pretrain"]), folder, placement, should_stop, console)
        if outcome is Outcome.STOPPED and task.rank == 0:
            console.print(f"{should_stop.signal_name or 'another rank'} asked to stop", highlight=False)


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "numpy", "ffcv"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
