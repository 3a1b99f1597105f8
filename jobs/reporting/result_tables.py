"""Numbers side by side: trained beside untrained, run beside run, measured beside published; like with like only.

Published numbers come from vicreg/evals/protocols.py. They are shown beside measured ones where the data are those of
the publication: the same numbers of images and classes, and for CIFAR-10, whose copies as JPEGs have these numbers too,
the same pixels, as far as the manifests tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataprep.beton.contract import BetonError, manifest_samples, read_manifest
from jobs.planning.ablations import rows_of
from jobs.planning.pieces import evaluation_module
from jobs.reporting.document import Block, Table, Text
from jobs.reporting.measured_run import Run
from vicreg.config_json import differing_fields, from_json, to_json
from vicreg.evals import protocols, results
from vicreg.evals.protocols import Column
from vicreg.evals.results import SUBJECTS, TRAINED, Result, say_subject

CIFAR10 = "CIFAR-10"
NUM_CLASSES_SHOWN = 10
_PUBLISHED_ENCODER = "ResNet-50, ImageNet"
ROWS_OF = {
    "vicreg": (protocols.OURS,),
    "barlow_twins": ("Barlow Twins",),
    "simclr": ("SimCLR",),
    "moco_v2": ("MoCo v2", "MoCo"),
    "byol": ("BYOL",),
    "simsiam": ("SimSiam",),
    "swav": ("SwAV (2 crops)", "SwAV (multi-crop)"),
    "supervised": ("Supervised",),
    "pirl": ("PIRL",),
    "cmc": ("CMC",),
    "cpc_v2": ("CPC v2",),
    "infomin": ("InfoMin Aug",),
}
"""The rows of the published tables that are of a method of this suite, by its name."""
_NOT_OF_THE_PUBLISHED_HEAD = ("grid_lrs", "grid_weight_decays")  # other heads of the same run of `linear`


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
    images = ", ".join(filter(None, [data_set_name(next(iter(measured.values()))), f"{beton[1]:,} images"]))
    title = f"Percent on {beton[0]} ({images}), best of each row marked"
    table = Table(title, ["evaluation", "measure", *map(say_subject, subjects)], num_names=2)
    for evaluation in dict.fromkeys(name for name, _ in measured):
        _add_metrics(table, evaluation, [measured.get((evaluation, subject)) for subject in subjects], mark=True)
    return table


def _add_metrics(table: Table, evaluation: str, columns: list[Result | None], mark: bool) -> None:
    """A row for each metric of an evaluation, its name in the first."""
    for row, metric in enumerate(metric_names(columns)):
        values = [column.metrics.get(metric) if column else None for column in columns]
        deviations = [column.metrics.get(f"{metric}_std") if column else None for column in columns]
        table.add(["" if row else evaluation, say_metric(metric)], values, deviations, mark)


def metric_names(columns: list[Result | None]) -> list[str]:
    """All metrics of some results but the standard deviations, in their order."""
    names = dict.fromkeys(name for column in columns if column for name in column.metrics)
    return [name for name in names if not name.endswith("_std")]


def say_metric(name: str) -> str:
    """top1_10_labels -> top-1, 10 labels; ap50_box -> AP50, box."""
    first, _, rest = name.partition("_")
    named = {"map": "mAP", "miou": "mIoU"}
    said = named.get(first) or (first.upper() if first.startswith("ap") else first.replace("top", "top-"))
    return said + (f", {rest.replace('_', ' ')}" if rest else "")


def other_settings(run: Run) -> list[str]:
    """One sentence per evaluation whose settings are not the defaults of its file."""
    lines: list[str] = []
    for evaluation, result in run.trained().items():
        changed = differing_fields(to_json(evaluation_module(result.module).Config()), result.settings)
        if changed:
            lines.append(f"{evaluation}: not the default settings ({', '.join(changed)}).")
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
    encoder = run.config.model.encoder
    if imported := run.origin.get("imported"):
        return f"{encoder}, imported ({imported.get('form', 'another file')})"
    train = run.config.train
    return f"{encoder}, {train.epochs} epochs of {run.config.data.train}, batch {train.global_batch}"


def experiment(run: Run) -> list[Block]:
    """Which of the paper's experiments the run's configuration is, if any, with what was published of it."""
    rows = [] if "imported" in run.origin else rows_of(run.config)
    said = "; ".join(str(row) for row in rows)
    return [Text(f"The configuration is that of the VICReg paper's {said} (linear top-1, ImageNet).")] if rows else []


def published(runs: list[Run], with_settings: bool = False) -> list[Block]:
    """The runs' numbers beside the published ones, a table for each published data set, if the data are these.

    with_settings: how each encoder came to be in a column of its own instead of below, where there is room for it.
    """
    blocks: list[Block] = []
    for data_set in dict.fromkeys(column.data_set for column in protocols.COLUMNS):
        measured = [_published_metrics(run, data_set) for run in runs]
        columns = protocols.published_columns(data_set, {key for own in measured for key in own})
        if not columns:
            continue
        table = _empty(f"{data_set}: measured and published, percent", columns, with_settings)
        for run, own in zip(runs, measured, strict=True):
            if not own:
                continue
            values: list[float | None] = []
            for column in columns:
                result = own.get((column.evaluation, column.metric))
                values.append(result.metrics[column.metric] if result else None)
            names = ["measured", str(run.path), pretraining(run)]
            table.own.add(len(table.rows))
            table.add(names[: table.num_names], values, [None] * len(values), mark=False)
        own_rows = [row for run in runs for row in ROWS_OF.get(run.config.method.name, ())]
        _add_published(table, columns, own_rows)
        shown = [] if with_settings else [run for run, own in zip(runs, measured, strict=True) if own]
        notes = [f"Measured, {run.path}: {pretraining(run)}." for run in shown]
        blocks += [table, Text(" ".join([*notes, _sources(), *_other_protocols(runs, measured, columns)]))]
    return blocks


def published_alone() -> list[Block]:
    """The published numbers on ImageNet, of which nothing was measured."""
    columns = [column for column in protocols.COLUMNS if column.data_set == protocols.IMAGENET]
    table = _empty(f"{protocols.IMAGENET}: published, percent; not measured here", columns, with_settings=True)
    _add_published(table, columns)
    return [table, Text(_sources())]


def _empty(title: str, columns: list[Column], with_settings: bool) -> Table:
    names = ["", "method", *(["pretraining"] if with_settings else [])]
    return Table(title, [*names, *(f"{column.title} ({column.source})" for column in columns)], num_names=len(names))


def _published_metrics(run: Run, data_set: str) -> dict[tuple[str, str], Result]:
    """Results of the trained encoder on a published data set, by evaluation and metric."""
    return {
        (name, metric): result
        for name, result in run.trained().items()
        if data_set_name(result) == data_set
        for metric in result.metrics
    }


def _add_published(table: Table, columns: list[Column], first: Sequence[str] = ()) -> None:
    """A row for each method: those that were measured right below the measured numbers, then the paper's own."""
    methods = dict.fromkeys(method for column in columns for method in column.values)
    for method in sorted(methods, key=lambda name: (name not in first, name != protocols.OURS)):
        values = [column.values.get(method) for column in columns]
        setting = f"{_PUBLISHED_ENCODER}, 1000 epochs" if method == protocols.OURS else _PUBLISHED_ENCODER
        names = ["published", method, setting]
        table.add(names[: table.num_names], values, [None] * len(values), mark=False)


def _sources() -> str:
    return f"Published: {protocols.PUBLISHED_SETTING}, all methods as printed in the {protocols.PAPER}."


def _other_protocols(
    runs: list[Run], measured: list[dict[tuple[str, str], Result]], columns: list[Column]
) -> list[str]:
    """A sentence for each measured evaluation whose settings are not the published ones."""
    said: dict[str, None] = {}
    for run, own in zip(runs, measured, strict=True):
        for column in columns:
            result, preset = own.get((column.evaluation, column.metric)), protocols.PRESETS.get(column.evaluation)
            if result is None or preset is None:
                continue
            settings = to_json(from_json(evaluation_module(preset.module).Config, preset.settings))
            changed = [
                line
                for line in differing_fields(settings, result.settings)
                if not line.startswith(_NOT_OF_THE_PUBLISHED_HEAD)
            ]
            if changed:
                said[f"{column.evaluation} of {run.path} has other settings than published ({', '.join(changed)})."] = (
                    None
                )
    return list(said)


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
