"""Numbers side by side: trained beside untrained, run beside run; like with like only.

Data are called a published set where they have its numbers of images and classes, and for CIFAR-10, whose copies as
JPEGs have these numbers too, the same pixels, as far as the manifests tell.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dataprep.beton.contract import BetonError, manifest_samples, read_manifest
from jobs.planning.ablations import rows_of
from jobs.planning.recipes import evaluation_settings
from jobs.reporting.document import Block, Table, Text
from jobs.reporting.measured_run import Run
from vicreg.config_json import differing_fields, to_json
from vicreg.evals import protocols, results
from vicreg.evals.results import SUBJECTS, TRAINED, Result, say_subject

CIFAR10 = "CIFAR-10"
LAST_EPOCH, GRID_BEST = "_last_epoch", "_grid_best"  # how names of metrics end
FLATTERS = "†"
WHAT_FLATTERS = f"{FLATTERS} chosen on the validation images themselves, which flatters it."
NUM_CLASSES_SHOWN = 10


def data_set_name(result: Result) -> str:
    """The published data set that was measured on; empty for another one, or where it is not certain."""
    counts = (result.data["train"]["num_images"], result.data["val"]["num_images"], result.num_classes)
    name = protocols.data_set_of(*counts)
    if name == CIFAR10:
        kinds = {_cifar10_pixels(Path(result.data[split]["path"])) for split in ("train", "val")}
        return kinds.pop() if len(kinds) == 1 else ""
    return name


def _cifar10_pixels(beton: Path) -> str:
    """CIFAR-10 or "JPEG CIFAR-10", by what the manifest says of the source's files and how they were stored."""
    try:
        manifest = read_manifest(beton)
        if manifest["source"]["name"] != "cifar10":
            return ""
        lossless = manifest["options"]["write_mode"] == "raw" and not manifest["options"]["max_resolution"]
        lossless = lossless and not any(name.lower().endswith((".jpg", ".jpeg")) for name, _ in manifest_samples(beton))
    except (BetonError, KeyError, TypeError):
        return ""
    return CIFAR10 if lossless else f"JPEG {CIFAR10}"


def measured_tables(run: Run) -> list[Table]:
    """A table for each validation split."""
    betons = dict.fromkeys(_measured_on(result) for result in run.results.values() if result.metrics)
    return [measured_table(run, beton) for beton in betons]


def _measured_on(result: Result) -> tuple[str, int, int]:
    """Path, images and classes of the validation split."""
    return result.data["val"]["path"], result.data["val"]["num_images"], result.num_classes


def measured_table(run: Run, beton: tuple[str, int, int]) -> Table:
    """What was measured on a beton: one row per evaluation and metric, one column per subject."""
    measured = {key: result for key, result in run.results.items() if _measured_on(result) == beton}
    present = {subject for _, subject in measured}
    subjects = [name for name in SUBJECTS if name in present] + sorted(present - SUBJECTS.keys())
    counted = f"{beton[1]:,} {run.config.model.sound.samples_are}"
    described = ", ".join(filter(None, [data_set_name(next(iter(measured.values()))), counted]))
    title = f"Percent on {beton[0]} ({described}), best of each row marked"
    table = Table(title, ["evaluation", "measure", *map(say_subject, subjects)], num_names=2)
    for evaluation in dict.fromkeys(name for name, _ in measured):
        _add_metrics(table, evaluation, [measured.get((evaluation, subject)) for subject in subjects], mark=True)
    return table


def _add_metrics(table: Table, evaluation: str, columns: list[Result | None], mark: bool) -> None:
    """A row for each metric of an evaluation, its name in the first."""
    names = metric_names(columns)
    for row, metric in enumerate(names):
        values = [column.metrics.get(metric) if column else None for column in columns]
        deviations = [column.metrics.get(f"{metric}_std") if column else None for column in columns]
        table.add(["" if row else evaluation, say_metric(metric, names)], values, deviations, mark)


def metric_names(columns: list[Result | None]) -> list[str]:
    """All metrics of some results but the standard deviations: those that flatter behind all others."""
    names = dict.fromkeys(name for column in columns if column for name in column.metrics)
    shown = [name for name in names if not name.endswith("_std")]
    return sorted(shown, key=lambda name: flatters(name, names))


def flatters(name: str, names: Collection[str]) -> bool:
    """Whether a metric was chosen by the validation images themselves: the best of the epochs, or of a grid."""
    return name.endswith(GRID_BEST) or f"{name}{LAST_EPOCH}" in names


def say_metric(name: str, names: Collection[str] = ()) -> str:
    """top1_10_labels -> top-1, 10 labels; ap50_box -> AP50, box; text_to_image_r5 -> text to image, R@5.

    The best of the epochs `names` is named so.
    """
    if "_to_" in name:  # of retrieval
        way, _, recall = name.rpartition("_r")
        recall, _, fold = recall.partition("_of_")
        return f"{way.replace('_', ' ')}, R@{recall}" + (f", {int(fold):,} at a time" if fold else "")
    base = name.removesuffix(GRID_BEST).removesuffix(LAST_EPOCH)
    first, _, rest = base.partition("_")
    named = {"map": "mAP", "miou": "mIoU"}
    said = named.get(first) or (first.upper() if first.startswith("ap") else first.replace("top", "top-"))
    said += f", {rest.replace('_', ' ')}" if rest else ""
    if name.endswith(GRID_BEST):
        return f"{said}, best of grid {FLATTERS}"
    return f"{said}, best epoch {FLATTERS}" if flatters(name, names) else said


def other_settings(run: Run) -> list[str]:
    """Sentences on what flatters, and on settings that are not the defaults of their files, or fitted to few images."""
    lines: list[str] = []
    if any(flatters(name, result.metrics) for result in run.results.values() for name in result.metrics):
        lines.append(WHAT_FLATTERS)
    for evaluation, result in run.trained().items():
        changed = differing_fields(to_json(evaluation_settings(result.module)()), result.settings)
        if changed:
            lines.append(f"{evaluation}: not the default settings ({', '.join(changed)}).")
        if result.options:
            given = ", ".join(f"{name} {value}" for name, value in result.options.items())
            lines.append(f"{evaluation}: given by option: {given}.")
        lines += [f"{evaluation}: {note}." for note in result.notes]
    return lines


def matched_classes(run: Run) -> list[str]:
    """A sentence for each pair of betons whose classes were matched by their names, because they count differently."""
    said: dict[str, None] = {}
    for result in run.results.values():
        classes = result.data.get("classes")
        if not isinstance(classes, dict):
            continue
        train, val = (result.data[split]["path"] for split in ("train", "val"))
        lacking = [str(name) for name in classes.get("without_val_images", [])]
        shown = ", ".join(lacking[:NUM_CLASSES_SHOWN]) + (", ..." if len(lacking) > NUM_CLASSES_SHOWN else "")
        rest = f"; it has no images of {len(lacking)} ({shown})" if lacking else ""
        matched = f"{classes.get('matched')} of the {classes.get('of')} classes of {train}"
        said[f"The classes of {val} were matched by their names with {matched}{rest}."] = None
    return list(said)


def pretraining(run: Run) -> str:
    """How the encoder came to be, in a few words."""
    model = run.config.model
    encoder = f"{model.encoder} beside {model.encoder_b}" if model.encoder_b else model.encoder
    if imported := run.origin.get("imported"):
        return f"{encoder}, imported ({imported.get('form', 'another file')})"
    train = run.config.train
    return f"{encoder}, {train.epochs} epochs of {run.config.data.train}, batch {train.global_batch}"


def experiment(run: Run) -> list[Block]:
    """Which of the paper's experiments the run's configuration is, if any, with what was published of it."""
    rows = [] if "imported" in run.origin else rows_of(run.config)
    said = "; ".join(str(row) for row in rows)
    return [Text(f"The configuration is that of the VICReg paper's {said} (linear top-1, ImageNet).")] if rows else []


def side_by_side(runs: list[Run]) -> list[Block]:
    """The trained encoders of several runs; the best is marked only where all were measured alike."""
    table = Table("Trained encoders, percent", ["evaluation", "measure", *(str(run.path) for run in runs)], num_names=2)
    unlike: list[str] = []
    for evaluation in dict.fromkeys(name for run in runs for name in run.trained()):
        columns = [run.results.get((evaluation, TRAINED)) for run in runs]
        first = next(column for column in columns if column)
        before = len(unlike)
        for run, column in zip(runs, columns, strict=True):
            if column is None:
                continue
            changed = results.changes(column, first.module, first.settings, first.data, column.encoder_sha256)
            if changed:
                unlike.append(f"{evaluation} of {run.path}: {'; '.join(changed)}")
        _add_metrics(table, evaluation, columns, mark=len(unlike) == before)
    blocks: list[Block] = [table]
    if unlike:
        blocks.append(Text(f"Not measured alike, so no best is marked: {'. '.join(unlike)}."))
    return blocks
