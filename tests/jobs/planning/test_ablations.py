"""The paper's experiments: each row's command is its configuration, stands in the docs, and is named by a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.options.pretrain import parse
from jobs.planning import recipes
from jobs.planning.ablations import ABLATIONS, UNIT_STD, Ablation, rows_of
from jobs.reporting.measured_run import Run
from jobs.reporting.result_tables import experiment
from vicreg import networks
from vicreg.expander import build_expander
from vicreg.method import UNKNOWN_DATA

DOCS = Path(__file__).parents[3] / "docs" / "methods.md"
DISTINCT = {row.command: row for row in ABLATIONS}


@pytest.mark.parametrize("command", DISTINCT)
def test_a_rows_command_is_its_configuration(command: str) -> None:
    row = DISTINCT[command]
    parsed = parse(command.split()[2:])
    assert parsed.recipe == row.recipe
    assert parsed.config == row.config
    assert row in rows_of(parsed.config)


def test_the_docs_have_each_rows_command_and_number() -> None:
    text = DOCS.read_text()
    for row in ABLATIONS:
        line = next((line for line in text.splitlines() if f"| {row.row} |" in line and f"| {row.table} |" in line), "")
        assert f"| `{row.command.removeprefix('python jobs/pretrain.py ')}` |" in line, row
        assert f"| {row.published} |" in line, row


def test_every_row_of_a_table_is_another() -> None:
    for table in {row.table for row in ABLATIONS}:
        own = [row for row in ABLATIONS if row.table == table]
        assert len({row.row for row in own}) == len({str(row.config) for row in own}) == len(own)


def _run(row: Ablation, **origin: str) -> Run:
    config = replace(row.config, data=replace(row.config.data, train="elsewhere/train.beton", workers=3))
    return Run(Path("runs/x"), config, row.recipe, True, [], {}, origin=dict(origin))


def test_a_report_names_the_rows_that_a_run_reproduces() -> None:
    row = next(row for row in ABLATIONS if row.row == "λ, μ, ν = 5, 5, 1")
    (said,) = experiment(_run(row))
    assert "VICReg paper's Table 7, λ, μ, ν = 5, 5, 1: 68.1 % (linear top-1" in str(said)
    base = next(row for row in ABLATIONS if row.row == "batch 2048")
    (said,) = experiment(_run(base))
    assert [f"Table {table}," in str(said) for table in (4, 5, 7, 8, 12, 13, 9)] == [True] * 6 + [False]
    assert experiment(_run(row, imported="from elsewhere")) == []
    other = replace(row.config, train=replace(row.config.train, epochs=99))
    assert rows_of(other) == []


def test_what_the_expander_has_of_batch_norm() -> None:
    kinds = {
        norm: [type(layer).__name__ for layer in build_expander(6, "5-4", norm=norm)]
        for norm in ("hidden", "none", "plain", "last")
    }
    assert kinds["none"] == ["Linear", "ReLU", "Linear"]
    assert kinds["last"] == ["Linear", "ReLU", "Linear", "BatchNorm1d"]
    assert kinds["hidden"] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds["plain"] == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert pytest.approx(8192**-0.5, abs=1e-6) == UNIT_STD


@pytest.mark.parametrize("name", ["supervised", "supcon", "swav", "imagenette-sigreg", "pirl", "cmc", "cpc-v2"])
def test_the_first_recipes_can_be_built(name: str) -> None:
    config = recipes.recipe(name).pretrain
    narrow = replace(config.model, encoder="resnet10-narrow")
    assert networks.build(replace(config, model=narrow), UNKNOWN_DATA).passes()
