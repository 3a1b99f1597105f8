"""A run folder's own files: what was asked for (config.json) and what came out (encoder.pt); read, written, mended.

What is derived from something else that is whole, such as config.json from a checkpoint, is made again with one line;
what is not is an error with the cure.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from border import VERSION
from border.documents import Unreadable, parse_json
from border.terminal import complain
from disk.whole_files import publish, write_text
from jobs.planning import hints, provenance
from jobs.planning.cli import CONFIG_FILE, RunFile
from slurm import attempts, chain
from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.config_json import differing_fields, to_json
from vicreg.run_files import encoder_path
from vicreg.schema import SCHEMA

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
FEATURES = "features"  # which a chain's evaluations share, until its report is there
DAMAGED = "damaged_"  # how the names of files begin that were set aside


class ConfigDamaged(ValueError):
    """A config.json that cannot be read."""


def read_run(run: Path) -> tuple[PretrainConfig, str]:
    """Configuration and recipe of a run; ValueError with the cure otherwise."""
    path = run / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{run} is no run folder (it has no {CONFIG_FILE}); make one with  {hints.pretrain(run)}")
    content = read_content(run)
    return _config_of(content, path), str(content["recipe"])


def config_if_there(run: Path) -> tuple[PretrainConfig | None, str]:
    """Configuration and recipe of a run that is there; nothing where none is, or what it holds is damaged."""
    try:
        return read_run(run) if (run / CONFIG_FILE).is_file() else (None, "")
    except ConfigDamaged as error:
        complain(str(error))
        return None, ""


def read_content(run: Path) -> dict[str, Any]:
    """Everything that config.json says; ConfigDamaged with the cure where it cannot be read."""
    path = run / CONFIG_FILE
    try:
        content = dict(parse_json(path.read_bytes(), RunFile))
    except Unreadable as error:
        raise _damaged(path, error) from error
    if "recipe" not in content:
        raise _damaged(path, Unreadable("it lacks recipe"))
    return content


def _config_of(content: dict[str, Any], path: Path) -> PretrainConfig:
    try:
        return methods.read_config(content["pretrain"], content.get("schema", 1))
    except (TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, Unreadable(repr(error))) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _damaged(path: Path, error: Unreadable) -> ConfigDamaged:
    started = hints.pretrain(path.parent)
    cure = f"the command that started the run ({started}) writes it again, and goes on"
    return ConfigDamaged(f"{path} is damaged ({error}); {cure}")


def write_config(
    run: Path,
    recipe: str,
    config: PretrainConfig,
    imported: dict[str, Any] | None = None,
    beginning: dict[str, Any] | None = None,
    chosen: dict[str, str] | None = None,
) -> None:
    """Keep the resolved configuration in the run folder, or refuse when it holds another one.

    `imported` says where the encoder comes from if it was not trained here (jobs/import_encoder.py), `beginning` where
    the weights come from that it begins with; `chosen` has the fields that were decided without being told, with the
    reasons. Once said that stays.
    """
    path = run / CONFIG_FILE
    there: dict[str, Any] = {}
    if path.exists():
        try:
            there = read_content(run)
            before = _config_of(there, path)
        except ConfigDamaged as error:
            there, before = {}, _config_elsewhere(run, config)
            aside = path.with_name(f"{DAMAGED}{CONFIG_FILE}")
            log.warning("%s: %s; set aside as %s", path, error.__cause__, aside.name)
            _require_same(run, before, config)
            publish(path, aside)
        else:
            if "imported" in there:
                raise ValueError(
                    f"{run} holds an imported encoder, which is not trained on; choose another folder with --run"
                )
            _require_same(run, before, config)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "recipe": recipe,
        "pretrain": to_json(config),
        "code": provenance.with_this(provenance.noted(there)),
        "versions": _versions(),
    }
    if imported:
        content["imported"] = imported
    if beginning := beginning or there.get("beginning"):
        content["beginning"] = beginning
    if reasons := there.get("chosen") or chosen:
        content["chosen"] = reasons
    write_text(path, json.dumps(content, indent=1))


def _require_same(run: Path, before: PretrainConfig, config: PretrainConfig) -> None:
    changed = differing_fields(to_json(before), to_json(config))
    if changed:
        raise ValueError(
            f"{run} was started with another configuration; go on with the same, or choose another folder with "
            "--run:\n  " + "\n  ".join(changed)
        )


def _config_elsewhere(run: Path, otherwise: PretrainConfig) -> PretrainConfig:
    """The configuration of a run whose config.json is lost, from what it has made; ValueError for an imported one."""
    from vicreg import checkpoint
    from vicreg.exchange.encoder_file import load_without_code

    state = checkpoint.load_newest(run / CHECKPOINTS)
    encoder = encoder_path(run)
    if state is None and checkpoint.is_whole(encoder):
        content = load_without_code(encoder, encoder.name)
        origin = content["origin"]
        if "config" not in origin:
            raise ValueError(
                f"{run / CONFIG_FILE} is damaged, and {encoder} was imported; remove {run}, and import it again "
                "(jobs/import_encoder.py)"
            )
        return methods.read_config(origin["config"], content.get("schema", 1))
    return methods.read_config(state["config"], state.get("schema", 1)) if state else otherwise


def note_code(run: Path) -> None:
    """Keep in config.json that this process's code works at the run, if that is news; on rank 0."""
    content = read_content(run)
    there = provenance.noted(content)
    codes = provenance.with_this(there)
    if codes != there:
        content.pop("commit", None)
        write_text(run / CONFIG_FILE, json.dumps(content | {"code": codes}, indent=1))
        log.info("from here on by other code: %s", provenance.said(codes[-1]))


def require_same_code(where: str) -> None:
    """ValueError on every rank, of which `where` names this one, unless all run the same code."""
    from vicreg.ranks import distributed

    sha256 = provenance.code_sha256()
    number = int(sha256[:15], 16)  # as much of it as an int64 holds
    if distributed.any_rank(number != distributed.from_rank_0(number)):
        raise ValueError(
            f"the ranks do not run the same code; rank {where} runs that of {provenance.TREE}, with SHA-256 "
            f"{sha256[: provenance.COMMIT_DIGITS]}: bring all machines to one commit, or take a folder that they share"
        )


def is_finished(run: Path, encoder: str = "") -> bool:
    """Whether the run's encoder of that name is there, and whole; one that was cut off is said."""
    path = encoder_path(run, encoder)
    if not path.is_file():
        return False
    from vicreg import checkpoint

    if not checkpoint.is_whole(path):
        log.warning("%s is cut off or damaged, so the run does not count as finished", path)
        return False
    return True


def require_finished(run: Path) -> None:
    """ValueError with the cure where the run has no encoder yet."""
    if not is_finished(run):
        path = encoder_path(run)
        what = f"{path.name} is cut off or damaged" if path.exists() else f"it has no {path.name}"
        raise ValueError(f"{run} is not finished ({what}); go on with  {hints.pretrain(run)}")


def read_finished(run: Path) -> tuple[PretrainConfig, str]:
    """Configuration and recipe of a run that has its encoder; ValueError with the cure, at once, where it has none."""
    config, recipe = read_run(run)
    if not encoder_path(run).is_file():  # what is in it takes torch to tell
        require_finished(run)
    return config, recipe


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "vicreg-suite": VERSION}
    for package in ("torch", "torchvision", "timm", "numpy", "ffcv"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def forget_features(run: Path, report: str) -> None:
    """Remove the features that a chain's evaluations have shared, unless a job but the `report` is still to be done."""
    jobs = [folder for folder in (run / chain.JOBS_FOLDER).glob("*") if folder.name != report]
    past = [attempts.read(folder) for folder in jobs]
    if all(each[-1].outcome == attempts.FINISHED for each in past if each):
        shutil.rmtree(run / FEATURES, ignore_errors=True)
