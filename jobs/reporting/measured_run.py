"""What a report knows of a run: everything that lies complete in its folder, whatever of it is missing or damaged."""

from __future__ import annotations

import logging
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.planning import hints
from jobs.planning.pieces import Choice, Piece, plan
from jobs.planning.run_folder import read_content, read_run
from jobs.planning.subjects import build_encoder
from jobs.reporting import training_lines
from jobs.reporting.document import Block, Code, Text
from slurm import attempts, chain, requeue
from slurm.requeue import failures_in_a_row
from slurm.task import JobSpec
from vicreg.branch_kinds import kind_of
from vicreg.config import PretrainConfig
from vicreg.evals import results
from vicreg.evals.results import TRAINED, Result, say_subject
from vicreg.exchange.encoder_file import checksum
from vicreg.run_files import ENCODER_FILE, METRICS_FILE

log = logging.getLogger(__name__)

PRETRAIN = "pretrain"  # name of the job
MAX_REASONS = 5  # for which a run was started again


@dataclass(frozen=True)
class Run:
    """A run folder, read once."""

    path: Path
    config: PretrainConfig
    recipe: str
    finished: bool
    pieces: list[Piece]
    """What the recipe asks for."""
    results: dict[tuple[str, str], Result]
    """What still holds, by evaluation and subject, in the recipe's order."""
    outdated: list[str] = field(default_factory=list)
    """Results that no longer hold, and why."""
    damaged: list[str] = field(default_factory=list)
    """What could not be read, and why."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Of metrics.jsonl, oldest first; of a long one every so many."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What else config.json says: code, versions, where imported weights come from."""
    every: int = 1
    """Of so many lines of metrics.jsonl one is in `lines`."""

    def trained(self) -> dict[str, Result]:
        """The results of the trained encoder by evaluation."""
        return {name: result for (name, subject), result in self.results.items() if subject == TRAINED}

    def beside(self, evaluation: str, subject: str) -> Result | None:
        """The result of another subject, if it is there and of the same data and settings as the trained encoder's."""
        own, other = self.results.get((evaluation, TRAINED)), self.results.get((evaluation, subject))
        if own and other and not results.changes(other, own.module, own.settings, own.data, other.encoder_sha256):
            return other
        return None

    def missing(self) -> list[Piece]:
        """What the recipe asks for and is not there."""
        return [piece for piece in self.pieces if (piece.evaluation, piece.subject) not in self.results]

    def values(self, name: str) -> list[float | None]:
        """A field of all lines of metrics.jsonl; None where it is missing or not finite."""
        return [_finite(line.get(name)) for line in self.lines]

    def steps_per_epoch(self) -> int:
        """Of the logged steps; the smallest number that fits, which is the right one when the run is finished."""
        return max((line["step"] // (line["epoch"] + 1) + 1 for line in self.lines), default=1)

    def epochs(self) -> list[float]:
        """Of every line: how many epochs were done after its step."""
        length = self.steps_per_epoch()
        return [(line["step"] + 1) / length for line in self.lines]

    def logged(self, name: str) -> tuple[list[float], list[float | None]]:
        """A field with its epochs, of the lines that have it: not all are measured each time."""
        there = [name in line for line in self.lines]
        both = zip(self.epochs(), self.values(name), there, strict=True)
        kept = [(epoch, value) for epoch, value, has_it in both if has_it]
        return [epoch for epoch, _ in kept], [value for _, value in kept]

    def images_per_s(self) -> float | None:
        """Median speed of training."""
        known = [value for value in self.values("images_per_s") if value is not None]
        return statistics.median(known) if known else None

    def duration(self) -> str:
        """How long it trained, as h:mm:ss; empty if it is not known."""
        known = [value for value in self.values("elapsed_s") if value is not None]
        return str(timedelta(seconds=round(known[-1]))) if known else ""


def load_run(path: Path) -> Run:
    """Everything about a run; ValueError when the folder is none."""
    config, recipe = read_run(path)
    pieces = plan(path, recipe, config.data, Choice())
    finished = (path / ENCODER_FILE).is_file()
    sha256, damaged = _checksum(path, config) if finished else ("", [])
    asked = {(piece.evaluation, piece.subject): piece for piece in pieces}
    found: dict[tuple[str, str], Result] = {}
    outdated: list[str] = []
    for result in results.read_all(path):
        key = result.evaluation, result.subject
        title = f"{result.evaluation}, {say_subject(result.subject)}"
        if reason := _unreadable(result):
            damaged.append(f"{title}: {reason}")
            continue
        settings = asked[key].settings if key in asked else result.settings
        expected = sha256 if result.subject == TRAINED and sha256 else result.encoder_sha256
        changed = results.changes(result, result.module, settings, result.data, expected)
        if changed:
            outdated.append(f"{title}: {'; '.join(changed)}")
        else:
            found[key] = result
    places = {key: number for number, key in enumerate(asked)}
    found = dict(sorted(found.items(), key=lambda pair: places.get(pair[0], len(places))))
    read = training_lines.read(path)
    if read.num_unread:
        damaged.append(f"{read.num_unread:,} lines of {METRICS_FILE} cannot be read")
    origin = read_content(path)
    return Run(path, config, recipe, finished, pieces, found, outdated, damaged, read.lines, origin, read.every)


def _checksum(run: Path, config: PretrainConfig) -> tuple[str, list[str]]:
    """That of what was measured of the trained run, or why there is none."""
    try:
        return checksum(build_encoder(run, TRAINED, config)), []
    except Exception as error:  # a damaged file raises every kind
        reason = f"{ENCODER_FILE} cannot be read ({error}), so results are not checked against it"
        return "", [reason]


def _unreadable(result: Result) -> str:
    """Why a result cannot be shown; empty if it can."""
    try:
        splits = [result.data[split] for split in ("train", "val")]
        whole = all(isinstance(split["path"], str) and split["num_images"] >= 0 for split in splits)
        whole = whole and all(_finite(value) is not None for value in result.metrics.values())
        whole = whole and isinstance(result.details, dict) and isinstance(result.settings, dict)
        say_subject(result.subject)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"damaged ({error!r})"
    if not whole:
        return "damaged (values of another kind than expected)"
    return "" if find_spec(f"vicreg.evals.{result.module}") else f"this version has no evaluation {result.module!r}"


def _finite(value: Any) -> float | None:
    """A number, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def summary(run: Run) -> str:
    """What the run is, in one sentence."""
    config = run.config
    start = f"recipe {run.recipe}, {say_encoders(config)}"
    if imported := run.origin.get("imported"):
        return f"{start}, imported ({imported.get('form', 'another file')})."
    start += f", from weights of {began_with(run)}" if began_with(run) else ""
    things = config.model.sound.samples_are
    parts = [start, f"{say_length(run)}, {config.train.global_batch} {things} a step"]
    speed = run.images_per_s()
    if speed is not None:
        parts.append(f"{speed:,.0f} {things}/s")
    if run.duration():
        parts.append(f"trained for {run.duration()} (h:mm:ss)")
    if run.lines and not run.finished:
        parts.append(f"now in epoch {run.lines[-1]['epoch'] + 1}")
    return " ".join([", ".join(parts) + ".", *_interruptions(run.path)])


def say_encoders(config: PretrainConfig) -> str:
    """The encoder and what it takes, and the second branch's where it has its own."""
    model = config.model
    both = [name for name in (model.encoder, model.encoder_b) if name]
    if model.sound.is_on:
        return f"{' and '.join(both)} of sound at {model.sound.rate_hz:,} Hz"
    takes = {"image": f"at {config.data.image_size} px", "text": "of captions"}
    return " and ".join(f"{name} {takes[kind_of(name)]}" for name in both)


def began_with(run: Run) -> str:
    """Where its first weights come from; empty for random ones."""
    origin = run.origin.get("beginning")
    return f"{origin.get('source')} (SHA-256 {str(origin.get('sha256'))[:12]})" if isinstance(origin, dict) else ""


def why_unfinished(run: Path) -> str:
    """A sentence on how pretraining has ended so far."""
    past = attempts.read(chain.job_folder(run, PRETRAIN))
    if not past:
        return "Not finished."
    last = past[-1]
    reason = last.reason or "no reason is known"
    if last.outcome == attempts.FAILED:
        own = attempts.of_submission(past, last.job_id)
        failures = failures_in_a_row(own)
        is_over = not requeue.decide(own, _max_failures(run)).try_again
        tries = f" after {failures} failures in a row without getting further" if failures > 1 else ""
        return f"Given up{tries}: {reason}." if is_over else f"Not finished: it failed ({reason})."
    if last.outcome == attempts.RUNNING:
        return "Not finished: it runs, or was ended without a word."
    return f"Not finished: {last.outcome} ({reason})."


def _max_failures(run: Path) -> int:
    try:
        return JobSpec.read(chain.job_folder(run, PRETRAIN)).max_failures
    except (OSError, ValueError):
        return JobSpec.max_failures


def _interruptions(run: Path) -> list[str]:
    """A sentence on how often its pretraining was started, and why again; nothing for a single start."""
    past = attempts.read(chain.job_folder(run, PRETRAIN))
    reasons = Counter(attempt.reason or attempt.outcome for attempt in past[:-1])
    named = [f"{reason} ({number} times)" if number > 1 else reason for reason, number in reasons.items()]
    more = [f"{len(named) - MAX_REASONS} other reasons"] if len(named) > MAX_REASONS else []
    return [f"Started {len(past)} times, again after: {'; '.join(named[:MAX_REASONS] + more)}."] if reasons else []


def say_length(run: Run) -> str:
    """Epochs, and how many images or clips one has."""
    train = run.config.data.train
    some = next((result for result in run.results.values() if result.data["train"]["path"] == train), None)
    things = run.config.model.sound.samples_are
    counted = f" ({some.data['train']['num_images']:,} {things})" if some else ""
    return f"{run.config.train.epochs} epochs of {train}{counted}"


def what_is_missing(run: Run) -> list[Block]:
    """What is not shown, why, and the command that makes it."""
    if not run.finished:
        return [Text(f"{why_unfinished(run.path)} Nothing is measured. Go on with"), Code(hints.pretrain(run.path))]
    blocks: list[Block] = []
    if run.outdated:
        blocks.append(Text(f"Left out, because it no longer holds: {'. '.join(run.outdated)}."))
    if run.damaged:
        blocks.append(Text(f"Damaged: {'. '.join(run.damaged)}."))
    missing = run.missing()
    if missing:
        names = ", ".join(f"{piece.evaluation} ({say_subject(piece.subject)})" for piece in missing)
        reasons = [(piece, results.read_reason(run.path, piece.evaluation, piece.subject)) for piece in missing]
        said = [f"{piece.evaluation} ({say_subject(piece.subject)}): {reason}" for piece, reason in reasons if reason]
        blocks += [Text(f"Could not be measured: {'; '.join(said)}.")] if said else []
        blocks += [Text(f"Missing: {names}. Measure with"), Code(hints.eval_all(run.path))]
    return blocks
