"""What is shown is what is there, and does nothing: on a terminal, in a shell, in Markdown."""

from __future__ import annotations

import io
import logging
import subprocess
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text

from border.terminal import SeenFormatter, Terminal
from border.text import HIDDEN, did_you_mean, markdown, shell_command, visible, visible_lines

ANY = st.text(st.characters(categories=None), max_size=30) | st.text(
    "a\x1b[]0;\x07\n\r/\\'\"$`*_<>|&#-+=1.) !~\u202e\udcff"
)


def _hidden(text: str, kept: str = "") -> list[str]:
    return [character for character in text if unicodedata.category(character) in HIDDEN and character not in kept]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer – 猫 100 %", "plain, größer – 猫 100 %"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\nb\tc\rd\x7f", r"a\nb\tc\rd\x7f"),
        ("\x9b31m", r"\x9b31m"),  # CSI as one character, which some terminals obey
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("a\u2028b\u200bc\ufeff", r"a\u2028b\u200bc\ufeff"),
        ("latin\udcff", r"latin\xff"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_hidden_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@settings(deadline=None)
@given(ANY)
def test_nothing_hidden_is_left_and_nothing_else_changes(text: str) -> None:
    assert _hidden(visible(text)) == []
    seen = "".join(character for character in text if not _hidden(character))
    assert visible(seen) == seen
    visible(text).encode()


@settings(deadline=None)
@given(ANY)
def test_no_line_but_the_first_begins_at_the_margin(text: str) -> None:
    first, *others = visible_lines(text).split("\n")
    assert _hidden(first + "".join(others)) == []
    assert all(not line or line.startswith("  ") for line in others)


@settings(deadline=None)
@given(st.lists(ANY.filter(lambda word: "\0" not in word), min_size=1, max_size=4))
def test_commands_say_to_a_shell_what_is_meant(words: list[str]) -> None:
    try:
        wanted = [word.encode("utf-8", "surrogateescape") for word in words]
    except UnicodeEncodeError:
        return  # no file name
    line = shell_command("printf", r"%s\0", *words)
    assert _hidden(line) == []
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == wanted


@settings(deadline=None)
@given(ANY)
@example("\xa0")
@example("__0__")
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    parser = MarkdownIt("gfm-like", {"linkify": False})
    parsed = parser.parse(markdown(text))
    shown = visible(text).strip()
    has_more = bool(visible(text).strip(" "))  # to Markdown the other spaces of Unicode are text
    assert [token.type for token in parsed] == (["paragraph_open", "inline", "paragraph_close"] if has_more else [])
    for token in parsed:
        kinds = {child.type for child in token.children or []}
        assert kinds <= {"text", "text_special"}
        assert not token.children or "".join(child.content for child in token.children).strip() == shown


@settings(deadline=None)
@given(ANY)
def test_a_table_of_markdown_keeps_its_cells(text: str) -> None:
    parsed = MarkdownIt("gfm-like", {"linkify": False}).parse(f"| a | b |\n|---|---|\n| {markdown(text)} | x |")
    cells = [token.content for token in parsed if token.type == "inline"]
    assert len(cells) == 4
    assert cells[3] == "x"


def _print(renderable: object, **options: object) -> str:
    file = io.StringIO()
    Terminal(file=file, width=200, **options).print(renderable)
    return file.getvalue()


def _in_table(text: str) -> Table:
    table = Table(text, title=text)
    table.add_row(text)
    table.add_row(Text(text))
    return table


@settings(deadline=None)
@given(ANY)
def test_a_terminal_obeys_no_text(text: str) -> None:
    for renderable in (text, Text(text), _in_table(text)):
        assert _hidden(_print(renderable), kept="\n") == []


@pytest.mark.parametrize("text", ["runs/a[", "runs/[/]", "[bold]x[/bold]", "[link=file:///etc]x", ":bug:", "a[/b]"])
def test_markup_in_a_name_is_part_of_the_name(text: str) -> None:
    assert _print(text) == f"{text}\n"
    assert _print(_in_table(text)).count(text) == 4
    file = io.StringIO()
    Terminal(file=file, width=80).rule(text)
    assert text in file.getvalue()


def test_colours_stay() -> None:
    assert _print(Text("x\x1b[2J", "red"), force_terminal=True, color_system="standard") == "\x1b[31mx\\x1b[2J\x1b[0m\n"


def test_a_record_is_a_line_and_a_traceback_keeps_its_lines() -> None:
    file = io.StringIO()
    handler = logging.StreamHandler(file)
    handler.setFormatter(SeenFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("foreign")
    logger.addHandler(handler)
    logger.warning("%s", "a\nERROR b\x1b[2J")
    assert file.getvalue() == "WARNING a\\nERROR b\\x1b[2J\n"
    try:
        raise ValueError("c\x1b[2J")
    except ValueError:
        logger.exception("failed")
    assert "\n  File " in file.getvalue()
    assert file.getvalue().endswith("ValueError: c\\x1b[2J\n")


def test_a_word_that_is_nearly_right_is_asked_back() -> None:
    assert did_you_mean("linaer", ["knn", "linear"]) == " (did you mean linear?)"
    assert did_you_mean("svm", ["knn", "linear"]) == ""
