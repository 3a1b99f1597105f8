"""Sweeps: which runs a command line means, what each one's own line is, what its folder says, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import pretrain
from jobs.options.pretrain import parse
from jobs.planning import sweeps
from jobs.planning.recipes import recipe
from jobs.planning.sweeps import Axis, SweepOptions, Trial, axes_of, trials_of
from vicreg.config_json import to_json

LINE = ["--recipe", "digits", "--seeds", "2", "--sweep", "optimizer.base_lr=0.1,0.2", "--train.epochs", "3"]
BASE = to_json(recipe("digits").pretrain)


def _sweep(folder: Path, *values: str, seeds: int = 1, base: dict[str, Any] = BASE) -> sweeps.Sweep:
    options = SweepOptions(seeds=seeds, sweep=values)
    asked, whole = sweeps.sweep_of(options, folder, base, ["--recipe", "digits"])
    sweeps.write_sweep(folder, whole)
    return asked


def test_a_run_for_each_combination_and_seed() -> None:
    axes = axes_of(SweepOptions(sweep=("--optimizer.base_lr=0.1, 0.2", "model.expander=64-64,8 8")))
    assert axes == (Axis("optimizer.base-lr", ("0.1", "0.2")), Axis("model.expander", ("64-64", "8 8")))
    trials = trials_of(axes, range(3, 5))
    assert [trial.name for trial in trials[:3]] == [
        "base-lr-0.1_expander-64-64_seed-3",
        "base-lr-0.1_expander-64-64_seed-4",
        "base-lr-0.1_expander-8-8_seed-3",
    ]
    assert len(trials) == 8
    assert [trial.name for trial in trials_of((), range(2))] == ["seed-0", "seed-1"]
    seeded = trials_of(axes_of(SweepOptions(sweep=("train.seed=7,9",))), range(1))
    assert [(trial.name, trial.seed) for trial in seeded] == [("seed-7", 7), ("seed-9", 9)]
    names = [trial.name for trial in trials_of((Axis("a.lr", ("1",)), Axis("b.lr", ("1",))), [0])]
    assert names == ["a.lr-1_b.lr-1_seed-0"]


def test_each_run_has_the_command_line_that_would_start_it_alone(tmp_path: Path) -> None:
    command = parse([*LINE, "--sweep", "recipe=digits,barlow-twins", "--at-once", "2"])
    assert command.several == SweepOptions(2, ("optimizer.base_lr=0.1,0.2", "recipe=digits,barlow-twins"), 2)
    plain = sweeps.without_sweep([*LINE, "--sweep=recipe=digits,barlow-twins", "--at-once=2"])
    assert plain == ["--recipe", "digits", "--train.epochs", "3"]
    trial = Trial("x", {"optimizer.base-lr": "0.2", "recipe": "barlow-twins", "views.0.crop-scale": "0.2 0.9"}, 5)
    own = parse(sweeps.arguments_of(trial, plain, tmp_path))
    alone = ["--recipe", "barlow-twins", "--train.epochs", "3", "--train.seed", "5", "--optimizer.base-lr", "0.2"]
    expected = parse([*alone, "--views.0.crop-scale", "0.2", "0.9", "--run", str(tmp_path)])
    assert (own.recipe, own.config, own.run) == (expected.recipe, expected.config, expected.run)
    assert (own.config.optimizer.base_lr, own.config.views[0].crop_scale) == (0.2, (0.2, 0.9))
    assert not own.several.is_asked


def test_short_names_of_what_ends_a_run_and_what_stays() -> None:
    more = ["--online.every-epochs", "5", "--stop-if", "online_top1<30@20", "--keep-best=knn_top1"]
    online = parse(["--recipe", "digits", *more]).config.online
    assert (online.stop_if, online.keep_best) == ("online_top1<30@20", "knn_top1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SweepOptions(seeds=0), "seeds is 0"),
        (SweepOptions(at_once=-1), "at-once is -1"),
        (SweepOptions(sweep=("optimizer.base-lr",)), "OPTION=VALUE,VALUE"),
        (SweepOptions(sweep=("optimizer.base-lr=0.1,,0.2",)), "OPTION=VALUE,VALUE"),
        (SweepOptions(sweep=("nodes=1,2",)), "full names"),
        (SweepOptions(sweep=("run=a,b",)), "full names"),
        (SweepOptions(sweep=("train.epochs=1,1",)), "every value once"),
        (SweepOptions(sweep=("train.epochs=1", "train.epochs=2")), "every option once"),
        (SweepOptions(seeds=2, sweep=("train.seed=1,2",)), "give one of both"),
    ],
)
def test_what_is_no_sweep_says_what_is_allowed(options: SweepOptions, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        axes_of(options)


def test_two_runs_never_share_a_folder() -> None:
    with pytest.raises(ValueError, match="both be run in"):
        trials_of((Axis("a.path", ("x/y", "x:y")),), [0])


def test_the_same_command_adds_values_and_seeds_and_forgets_none(tmp_path: Path) -> None:
    _sweep(tmp_path, "optimizer.base-lr=0.1,0.2")
    asked = _sweep(tmp_path, "optimizer.base-lr=0.2,0.4", seeds=2)
    assert len(asked.trials) == 4
    there = sweeps.read_sweep(tmp_path)
    assert len(there.trials) == 5
    assert [len(trials) for trials in there.combinations().values()] == [1, 2, 2]
    assert sweeps.run_folders(tmp_path) == []


def test_a_sweep_of_an_older_version_goes_on(tmp_path: Path) -> None:
    without = {name: value for name, value in BASE["online"].items() if name not in ("stop_if", "keep_best")}
    _sweep(tmp_path, "optimizer.base-lr=0.1", base=BASE | {"online": without})
    _sweep(tmp_path, "optimizer.base-lr=0.2")
    assert len(sweeps.read_sweep(tmp_path).trials) == 2


def _another_option(folder: Path) -> None:
    _sweep(folder, "train.epochs=1,2")


def _another_base(folder: Path) -> None:
    _sweep(folder, "optimizer.base-lr=0.4", base=BASE | {"model": BASE["model"] | {"expander": "8-8"}})


def _one_run(folder: Path) -> None:
    pretrain.main(["--recipe", "digits", "--run", str(folder), "--dry-run", "--cluster", "local"])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (_another_option, "is a sweep of optimizer.base-lr, not of train.epochs"),
        (_another_base, "model.expander"),
        (_one_run, "is a sweep, whose runs are the folders in it; go on with all of it by"),
    ],
)
def test_what_is_in_the_folder_is_no_other_sweep_and_no_run(
    other: Callable[[Path], None], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sweep(tmp_path, "optimizer.base-lr=0.1,0.2")
    before = (tmp_path / "sweep.json").read_text()
    with pytest.raises((ValueError, SystemExit)) as refused:
        other(tmp_path)
    assert said in " ".join(f"{refused.value} {capsys.readouterr().err}".split())
    assert (tmp_path / "sweep.json").read_text() == before
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is a run, and no folder for a sweep"):
        _sweep(run, "optimizer.base-lr=0.1,0.2")


def test_a_damaged_sweep_is_told_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"options": []')
    with pytest.raises(ValueError, match=r"sweep\.json is damaged .* the same command writes it again"):
        sweeps.read_sweep(tmp_path)
