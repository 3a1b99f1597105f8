"""Measured numbers beside published ones, a table for each published data set, and what differs between them.

Published numbers come from vicreg/evals/protocols.py. They are shown beside measured ones where the data are those of
the publication (`result_tables.data_set_name`).
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.planning import recipes
from jobs.planning.recipes import evaluation_settings
from jobs.reporting.document import Block, Table, Text
from jobs.reporting.measured_run import Run
from jobs.reporting.result_tables import data_set_name, pretraining
from vicreg.config import PretrainConfig
from vicreg.config_json import differing_fields, from_json, to_json
from vicreg.evals import protocols
from vicreg.evals.protocols import Column
from vicreg.evals.results import Result

_PUBLISHED_ENCODER = "ResNet-50, ImageNet"
_SETTINGS = {
    protocols.ESC50: "ResNet-18 of spectrograms and one of waveforms, ESC-50, 100 epochs",
    protocols.COCO_CAPTIONS: "supervised ResNet-152 and GRU, COCO captions",
}
"""Of what is not learned from ImageNet."""
_EXCHANGED = (
    "Its Table 3 has the columns exchanged: five captions are right for an image and one image for a caption, so image "
    "to text is the higher."
)
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
NUM_FIELDS_SHOWN = 12
PUBLISHED_RECIPE = "imagenet-1000ep"
_RECIPES = {protocols.ESC50: "esc50", protocols.COCO_CAPTIONS: "coco-captions"}
OF_PRETRAINING = ("model.encoder", "train.epochs", "train.global_batch", "data.image_size", "optimizer.", "views.")
"""Fields in which a run may differ from the published one; methods of others are known to share the encoder alone."""


def published(runs: list[Run], with_settings: bool = False) -> list[Block]:
    """The runs' numbers beside the published ones, a table for each published data set, if the data are these.

    with_settings: how each encoder came to be in a column of its own instead of below, where there is room for it.
    """
    blocks: list[Block] = []
    for data_set in data_sets():
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
        differing = [_other_pretraining(run, data_set) for run, own in zip(runs, measured, strict=True) if own]
        differing += _other_protocols(runs, measured, columns)
        blocks += [table, Text(" ".join(filter(None, [*notes, _sources(data_set), *differing])))]
    return blocks


def data_sets() -> list[str]:
    """Those that there are published numbers of."""
    return list(dict.fromkeys(column.data_set for column in protocols.COLUMNS))


def most_like(config: PretrainConfig) -> str:
    """The published data set of the same kind as a run's data."""
    if config.model.sound.is_on:
        return protocols.ESC50
    return protocols.COCO_CAPTIONS if "text" in config.other_kinds else protocols.IMAGENET


def published_alone(data_set: str) -> list[Block]:
    """The published numbers on a data set, of which nothing was measured."""
    columns = [column for column in protocols.COLUMNS if column.data_set == data_set]
    table = _empty(f"{data_set}: published, percent; not measured here", columns, with_settings=True)
    _add_published(table, columns)
    return [table, Text(_sources(data_set))]


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
        setting = _SETTINGS.get(columns[0].data_set, setting)
        names = ["published", method, setting]
        table.add(names[: table.num_names], values, [None] * len(values), mark=False)


def _sources(data_set: str) -> str:
    setting = _SETTINGS.get(data_set, protocols.PUBLISHED_SETTING)
    exchanged = f" {_EXCHANGED}" if data_set == protocols.COCO_CAPTIONS else ""
    return f"Published: {setting}, all methods as printed in the {protocols.PAPER}.{exchanged}"


def _other_pretraining(run: Run, data_set: str) -> str:
    """A sentence on what the run's pretraining has other than the published one; empty where that is nothing."""
    if "imported" in run.origin:
        return ""
    published_run = to_json(recipes.recipe(_RECIPES.get(data_set, PUBLISHED_RECIPE)).pretrain)
    compared = OF_PRETRAINING if run.config.method.name == published_run["method"]["name"] else OF_PRETRAINING[:1]
    changed = [line for line in differing_fields(published_run, to_json(run.config)) if line.startswith(compared)]
    if not changed:
        return ""
    shown = ", ".join(changed[:NUM_FIELDS_SHOWN])
    more = f" and {len(changed) - NUM_FIELDS_SHOWN} more" if len(changed) > NUM_FIELDS_SHOWN else ""
    return f"The pretraining of {run.path} is not the published one ({shown}{more})."


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
            settings = to_json(from_json(evaluation_settings(preset.module), preset.settings))
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
