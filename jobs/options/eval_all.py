"""Options of jobs/eval_all.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.planning.cli import PlaceOptions
from jobs.planning.command_line import read_command
from jobs.planning.eval_options import other_encoders, require_cluster, settings_given
from jobs.planning.recipes import LAST
from jobs.planning.run_folder import read_run
from jobs.planning.writing_commands import require_beton
from vicreg.checked import require
from vicreg.config import Precision
from vicreg.one_branch import branch


@dataclass(frozen=True)
class Command:
    """Measure a run with the evaluations of its recipe, then report; what is done is skipped."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of jobs/pretrain.py."""
    evals: tuple[str, ...] = ()
    """Names of the evaluations to do, or of published ones (vicreg/evals/protocols.py); all of the recipe's if none."""
    checkpoints: str = LAST
    """last: measure the finished encoder; all, or a number: the run's newest checkpoints, so many of them."""
    train: str = ""
    """Beton to train on, instead of the evaluations' own data; results are kept as NAME-on-FOLDER."""
    val: str = ""
    """Beton to measure on, with --train."""
    encoder: str = ""
    """Which of the run's encoders to measure, where it has several (b: the second branch's); results of another than
    the first are kept as NAME-of-ENCODER."""
    after: str = ""
    """Id of a SLURM job to wait for; a pretraining job that jobs/pretrain.py submitted is waited for anyway."""
    set: tuple[str, ...] = ()
    """Settings of evaluations, EVALUATION.SETTING=VALUE: linear.epochs=20 knn.neighbours=5,20. They are kept with the
    result and hold until others are given."""
    baselines: tuple[str, ...] = ()
    """What to measure beside the trained encoder, more than the recipe says: random, pixels, or run folders of other
    encoders (jobs/import_encoder.py makes them)."""
    precision: Precision = "auto"
    """Arithmetic of the encoder; auto: half on a GPU (bf16, or fp16 where the card has no bf16), float32 on a CPU, and
    a result of either holds."""
    jobs: tuple[str, ...] = ()
    """On a cluster, what single jobs ask for, JOB.KEY=VALUE of nodes, gpus, time, partition: knn.time=0:30:00; else
    --nodes, --gpus and --time hold for all, else the profile, else estimates."""
    overwrite: bool = False
    """Compute again what is done."""
    place: Annotated[PlaceOptions, tyro.conf.arg(name="")] = field(default_factory=PlaceOptions)


def parse(arguments: list[str]) -> Command:
    """The command line; ValueError for what can be known to be impossible before anything is computed."""
    command = read_command(Command, arguments)
    if bool(command.train) != bool(command.val):
        raise ValueError("--train and --val go together: one beton to train on, one to measure on")
    is_id = command.after.isascii() and command.after.isdecimal()
    require(is_id or not command.after, "--after", command.after, "the id of a SLURM job, digits alone (squeue --me)")
    is_count = command.checkpoints.isdecimal() and int(command.checkpoints) > 0
    allowed = "last, all, or how many of the newest, such as 3"
    require(is_count or command.checkpoints in (LAST, "all"), "checkpoints", command.checkpoints, allowed)
    config, recipe = read_run(command.run)
    settings_given(command.set, recipe, command.evals)  # these raise what they object to
    other_encoders(command.baselines)
    branch(config.model, command.encoder)
    profile = command.place.profile()
    command.place.require_possible(profile)
    require_cluster(command.jobs, profile)
    for path in (Path(command.train), Path(command.val)) if command.train else ():
        require_beton(path)
    return command
