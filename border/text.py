"""Foreign text as it may be shown: names of files, classes and runs, messages, logs, keys of others' checkpoints.

A terminal obeys control characters, Markdown its marks, and a shell nearly everything. What is shown is what is there,
and does nothing. HTML has its place in jobs/reporting/page.py.
"""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of what is obeyed or not seen: controls (C0, C1), marks of direction, halves of pairs, breaks."""
TREE = Path(__file__).resolve().parents[1]
"""Where the commands of this suite lie."""
IS_CHECKOUT = (TREE / "setup.cfg").is_file()
"""Whether the suite is run from its source; else it was installed, and its commands have names of their own."""
INSTALLED_AS = {
    "dataprep/write_ffcv.py": "vicreg-write",
    "jobs/board.py": "vicreg-board",
    "jobs/embed.py": "vicreg-embed",
    "jobs/eval_all.py": "vicreg-eval",
    "jobs/export_encoder.py": "vicreg-export",
    "jobs/import_encoder.py": "vicreg-import",
    "jobs/pretrain.py": "vicreg-pretrain",
    "jobs/report.py": "vicreg-report",
    "jobs/search.py": "vicreg-search",
    "jobs/status.py": "vicreg-status",
}
"""What the commands are called where the suite is installed."""
_MARKS = re.compile(r"[\\`*<|\[\]~$]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
_AT_THE_START = re.compile(r"( *)(>|(?:#{1,6}|[+-])(?= |$)|[=-](?=[=\- ]*$)|\d+(?=[.)](?: |$)))")


def visible(text: object, kept: str = "") -> str:
    r"""A text in which everything is seen and nothing obeyed: \x1b for Escape, \n for a new line, unless it is kept."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(character) if unicodedata.category(character) in HIDDEN and character not in kept else character
        for character in text
    )


def visible_lines(text: object) -> str:
    """A text of several lines of which only the first begins at the margin, so that none can pass for another text."""
    first, *others = visible(text, kept="\n").split("\n")
    return "\n".join([first, *(line if not line or line.startswith("  ") else f"  {line}" for line in others)])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean x?)" where one of the known words is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def shell_command(*words: object) -> str:
    """A command to be copied into a shell: each word is what it is, whatever characters it has."""
    return " ".join(_shell_word(str(word)) for word in words)


def suite_command(script: str, *words: object) -> str:
    """A command of this suite (`jobs/report.py`) to be copied into a shell, by a name or path that holds here."""
    if not IS_CHECKOUT and script in INSTALLED_AS:
        return shell_command(_installed(INSTALLED_AS[script]), *words)
    return shell_command("python", script if Path.cwd() == TREE else TREE / script, *words)


def program(script: str) -> str:
    """What a command of this suite is called in its own help."""
    return Path(script).name if IS_CHECKOUT else INSTALLED_AS[script]


def _installed(name: str) -> str | Path:
    """The name where the shell finds this suite's command by it, else its path."""
    path = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    return name if found and Path(found).resolve() == path.resolve() else path


def markdown(text: object) -> str:
    """A text as one line of Markdown that shows it and nothing else."""
    text = _MARKS.sub(lambda mark: f"\\{mark[0]}", visible(text))
    if not (start := _AT_THE_START.match(text)):
        return text
    ahead, mark = start.groups()
    return f"{ahead}{mark}\\{text[start.end() :]}" if mark.isdigit() else f"{ahead}\\{text[start.start(2) :]}"


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file name that is not UTF-8 (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _shell_word(word: str) -> str:
    """Quoted; where it has characters that are not seen, in the way of bash and zsh that spells them out."""
    if visible(word) == word:
        return shlex.quote(word)
    spelled = "".join(
        "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
        if unicodedata.category(character) in HIDDEN
        else f"\\{character}" * (character in "\\'") or character
        for character in word
    )
    return f"$'{spelled}'"
