"""What a pretraining command's options start from: a recipe, a run that is there, or what `--recipe auto` chooses.

Some options decide others that nobody gave: these follow here, and each that does is said.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from border.text import suite_command
from dataprep.beton.contract import BetonError, open_beton
from dataprep.beton.manifest import has_labels
from jobs.planning import auto_recipe, recipes
from jobs.planning.auto_recipe import Machine
from jobs.planning.command_line import or_none
from jobs.planning.image_facts import look_at
from jobs.planning.run_folder import config_if_there
from jobs.planning.writing_commands import require_beton
from slurm.cluster import Cluster
from slurm.cluster import load as load_profile
from vicreg import methods
from vicreg.config import DataConfig, PretrainConfig, official_views, paper_views
from vicreg.config_json import flat, to_json
from vicreg.data.channels import fitted_to_channels
from vicreg.data.vocabulary import fitted_to_captions

VIEWS = {"official": official_views, "paper": paper_views}
SHORT_WARMUP = 4
"""A warm-up that a shorter run leaves above one in so many of its epochs becomes shorter too."""

Notes = dict[str, str]
"""What was decided by itself, and why, by the field's full name."""


@dataclass(frozen=True)
class StartingPoint:
    """A configuration that the command line may still change."""

    recipe: str
    views: Literal["recipe", "official", "paper"]
    config: PretrainConfig
    notes: Notes


def find(arguments: Sequence[str], default_recipe: str) -> StartingPoint:
    """Where a command line starts from; ValueError for an unknown recipe, and for `auto` without images to look at."""
    early, fields = _early(arguments)
    run = Path(early.run) if early.run else None
    if early.recipe == recipes.AUTO and run is None:
        run = Path(load_profile(early.cluster).shared_folder) / "runs" / recipes.AUTO
    own, name = config_if_there(run) if run and early.recipe in ("", recipes.AUTO) else (None, "")
    if early.recipe == recipes.AUTO and name != recipes.AUTO:
        own = None
    recipe = recipes.recipe(early.recipe or name or default_recipe)
    notes: Notes = {}
    if own:
        config = own
    elif recipe.name == recipes.AUTO:
        config, notes = _chosen(early, fields, recipe.pretrain)
    else:
        config, notes = derived(recipes.at_home(recipe.pretrain, load_profile(early.cluster)), fields)
    views: Literal["recipe", "official", "paper"] = "recipe"  # another word is refused where the options are read
    if early.views in VIEWS:
        views, config = early.views, replace(config, views=VIEWS[early.views]())
    if not own:
        train = fields.get("data.train", config.data.train)
        config = fitted_to_channels(replace(config, data=replace(config.data, train=train)))
        names = [name for name in ("encoder_b", "min_word_count") if f"model.{name}" in fields]
        model = replace(config.model, **{name: fields[f"model.{name}"] for name in names})
        config = fitted_to_captions(replace(config, model=model))
    if early.method and early.method != config.method.name:
        config = replace(config, method=methods.load(early.method).Config())
    return StartingPoint(recipe.name, views, config, notes)


def _early(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """What must be known before the options are read, and the fields that others depend on, as far as they are given.

    Values that do not parse are left to whoever reads the options.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--run", nargs="?", default="")
    early.add_argument("--recipe", nargs="?", default="")
    early.add_argument("--views", nargs="?", default="recipe")
    early.add_argument("--cluster", nargs="?", default="")
    early.add_argument("--method.name", dest="method", nargs="?", default="")
    early.add_argument("--nodes", type=or_none(int), nargs="?", default=1)
    early.add_argument("--gpus", type=or_none(int), nargs="?", default=0)
    early.add_argument("-h", "--help", action="store_true")
    for name, kind in _DECIDING.items():
        spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        early.add_argument(*spellings, dest=name, type=or_none(kind), nargs="?", default=None)
    found, _ = early.parse_known_args(list(arguments))
    return found, {name: value for name in _DECIDING if (value := getattr(found, name)) is not None}


_DECIDING: dict[str, Callable[[str], Any]] = {
    "data.train": str,
    "data.val": str,
    "data.image_size": int,
    "data.eval_resize": int,
    "train.epochs": int,
    "train.global_batch": int,
    "optimizer.name": str,
    "optimizer.warmup_epochs": float,
    "model.encoder": str,
    "model.encoder_b": str,
    "model.min_word_count": int,
}
"""Fields on which others depend, and what they are."""


def derived(config: PretrainConfig, given: dict[str, Any]) -> tuple[PretrainConfig, Notes]:
    """The configuration with `given` fields, and with those that depend on them and are not given themselves."""
    data, notes = config.data, Notes()
    if "data.train" in given and "data.val" not in given and given["data.train"] != data.train:
        val = str(_beside(Path(given["data.train"])))
        notes["data.val"] = f"{val}: beside the training beton"
        data = replace(data, train=given["data.train"], val=val)
    size = given.get("data.image_size", data.image_size)
    if size != data.image_size and size >= 8:
        resize = given.get("data.eval_resize") or round(size * data.eval_resize / data.image_size)
        if "data.eval_resize" not in given:
            notes["data.eval_resize"] = f"{resize}: {data.eval_resize} for {data.image_size} px, in proportion"
        for number, view in enumerate(config.views):
            if view.image_size:
                notes[f"views.{number}.image_size"] = f"{view.image_size}: stays, as the recipe's views have their own"
        data = replace(data, image_size=size, eval_resize=max(resize, size))
    epochs, optimizer = given.get("train.epochs", config.train.epochs), config.optimizer
    is_shorter = 0 < epochs < config.train.epochs and "optimizer.warmup_epochs" not in given
    if is_shorter and optimizer.warmup_epochs * SHORT_WARMUP > epochs:
        warmup = epochs / 10
        notes["optimizer.warmup_epochs"] = (
            f"{warmup:g}: a tenth of the run; {optimizer.warmup_epochs:g} of {epochs} epochs would be most of it"
        )
        optimizer = replace(optimizer, warmup_epochs=warmup)
    return replace(config, data=data, optimizer=optimizer), notes


def _beside(train: Path) -> Path:
    """The validation beton of a training beton."""
    return train.with_name(f"val{train.suffix or '.beton'}")


def _chosen(
    early: argparse.Namespace, fields: dict[str, Any], otherwise: PretrainConfig
) -> tuple[PretrainConfig, Notes]:
    """What `--recipe auto` chooses for the images and the machine that the command line names."""
    if "data.train" not in fields:
        if early.help:
            return otherwise, {}
        words = ("folder", "--root", "IMAGES", "--out", "FOLDER", "--val-fraction", "0.1")
        raise ValueError(
            "recipe auto looks at your images: name their beton with --data.train FOLDER/train.beton; to write one:  "
            + suite_command("dataprep/write_ffcv.py", *words)
        )
    train = Path(fields["data.train"])
    require_beton(train)
    facts = look_at(train)
    val = Path(fields.get("data.val", _beside(train)))
    data = DataConfig(train=str(train), val=str(val))
    given = {name: value for name, value in fields.items() if name not in ("data.train", "data.val")}
    machine = machine_of(load_profile(early.cluster), early.nodes or 1, early.gpus or 0)
    return auto_recipe.choose(facts, machine, data, _can_measure(train, val), given)


def machine_of(cluster: Cluster, nodes: int, gpus: int) -> Machine:
    """What the ranks of a command will have."""
    if cluster.scheduler == "slurm":
        per_node = gpus or cluster.gpus_per_node
        return Machine(nodes * per_node, has_gpus=True, num_cores=nodes * per_node * cluster.cpus_per_gpu)
    import torch

    from vicreg.data.loaders import default_workers

    here = torch.cuda.device_count()
    return Machine(gpus or max(1, here), has_gpus=here > 0, num_cores=default_workers())


def _can_measure(train: Path, val: Path) -> bool:
    """Whether both betons are there and have a class for each image."""
    try:
        return all(open_beton(path).labels.ndim == 1 and has_labels(path) for path in (train, val))
    except (BetonError, OSError, ValueError):
        return False


def notes_that_hold(start: StartingPoint, config: PretrainConfig) -> Notes:
    """What was chosen and why, with what the command line has changed of it."""
    chosen, final = flat(to_json(start.config)), flat(to_json(config))
    given = {name: f"{final[name]}: given" for name in start.notes if chosen.get(name) != final.get(name)}
    return start.notes | given


def show_notes(notes: Notes, console: Console) -> None:
    """What was decided without being told, a line each."""
    for name, said in notes.items():
        console.print(Text.assemble((name, "bold"), "  ", said), soft_wrap=True)
