"""Which code a run was made by: the commit, what was changed since, where it lies, and whether all ranks have the same.

A program runs the tree that it stands in (the lines before its imports see to that), so this file's tree is the one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
PACKAGES = ("jobs", "vicreg", "dataprep", "slurm", "disk", "border")
CODE_ENDINGS = (".py", ".css", ".toml")
NUM_SHOWN = 5
COMMIT_DIGITS = 12


@dataclass(frozen=True)
class Code:
    """The code of this process."""

    commit: str
    """Empty where git does not tell."""
    changed: tuple[str, ...]
    """Tracked files that differ from the commit, and files of code that git does not know."""
    tree: str
    """Where it lies."""
    sha256: str
    """Of all files of its packages."""

    def to_json(self) -> dict[str, Any]:
        """As it is written down."""
        return asdict(self) | {"changed": list(self.changed)}


@functools.cache
def code_sha256() -> str:
    """Of the code of this process, for ranks to compare."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((TREE / package).rglob("*")):
            if path.suffix in CODE_ENDINGS:
                digest.update(str(path.relative_to(TREE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def code() -> Code:
    """The code of this process; git is asked once."""
    top = _git("rev-parse", "--show-toplevel").strip()
    is_own = bool(top) and Path(top).resolve() == TREE  # not that of a project that this one only lies in
    commit = _git("rev-parse", "HEAD").strip() if is_own else ""
    return Code(commit, _changed() if commit else (), str(TREE), code_sha256())


def _changed() -> tuple[str, ...]:
    """Of git's porcelain: state, space, name; the old name of a renamed file follows it."""
    entries = iter(_git("status", "--porcelain", "-z", "--untracked-files=all").split("\0"))
    found = []
    for entry in entries:
        state, name = entry[:2], entry[3:]
        if "R" in state or "C" in state:
            next(entries, "")
        if name and (state != "??" or name.endswith(CODE_ENDINGS)):
            found.append(name)
    return tuple(sorted(found))


def _git(*arguments: str) -> str:
    """What git says of the tree; empty where it says nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(TREE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, env=environment)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def noted(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The codes that a run folder's config.json names, oldest first; before there was a list it was one commit."""
    there = content.get("code")
    if isinstance(there, list):
        return [entry for entry in there if isinstance(entry, dict)]
    return [{"commit": content["commit"]}] if content.get("commit") else []


def with_this(there: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The codes of a run, oldest first, with that of this process."""
    own = code().to_json()
    return [*there, *([] if there and there[-1] == own else [own])]


def said(entry: Mapping[str, Any]) -> str:
    """A noted code for people."""
    commit, changed = str(entry.get("commit") or ""), entry.get("changed")
    parts = [commit[:COMMIT_DIGITS] or "unknown commit"]
    if isinstance(changed, list | tuple) and changed:
        names = ", ".join(map(str, changed[:NUM_SHOWN])) + (", ..." if len(changed) > NUM_SHOWN else "")
        parts.append(f"with {len(changed)} changed {'file' if len(changed) == 1 else 'files'} ({names})")
    if not commit and entry.get("sha256"):
        parts.append(f"(SHA-256 of the code {str(entry['sha256'])[:COMMIT_DIGITS]})")
    if entry.get("tree"):
        parts.append(f"in {entry['tree']}")
    return " ".join(parts)
