"""The help at 80 columns: text wrapped, views once, and no option that does nothing."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from jobs import board, embed, eval_all, export_encoder, import_encoder, pretrain, report, search, status
from jobs.options.pretrain import parse
from jobs.planning.command_line import wrapped
from jobs.planning.recipe_help import other_views
from vicreg.view_config import official_views

COMMANDS = [board, embed, eval_all, export_encoder, import_encoder, pretrain, report, search, status]


def _help(command: ModuleType, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        command.main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_the_help_stands_in_80_columns(
    command: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    usage, _, text = _help(command, capsys).partition("\n\n")
    assert usage.startswith("usage: ")
    assert {line for line in text.splitlines() if len(line) > 80} == set()


def test_the_options_of_a_view_stand_in_the_help_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = _help(pretrain, capsys, "--recipe", "imagenet-100ep")
    assert shown.count("Probability of a Gaussian blur") == 1
    assert "--views.1.blur-p" not in shown
    said = re.sub(r"\s+", " ", shown)
    assert "--views.1: the same options and values as --views.0, of which differ: blur-p 0.1, solarize-p 0.2." in said
    assert parse(["--recipe", "imagenet-100ep", "--views.1.blur-p", "0.3"]).config.views[1].blur_p == 0.3


def test_views_that_are_alike_differ_in_nothing() -> None:
    first = official_views()[0]
    assert list(other_views((first, first))) == ["--views.1: the same options and values as --views.0."]


def test_only_a_pretraining_has_spare_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    offered = {command for command in COMMANDS if "--spare-nodes" in _help(command, capsys)}
    assert offered == {pretrain}


def test_lines_are_wrapped_between_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = "one two-and-a-half three\n  four five-and-a-whole-lot-more"
    assert wrapped(text) == "one two-and-a-half\n  three\n  four\n    five-and-a-whole-lot-more"
