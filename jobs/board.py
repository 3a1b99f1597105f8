"""The board: all runs of a folder in the browser, live, for whoever started it; nothing can be changed there."""

from __future__ import annotations

import logging
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from waitress.server import create_server

from border.terminal import log_to, say, typed
from disk.closed_pipe import quietly
from jobs.planning.cli import user_errors
from jobs.planning.command_line import read_command
from jobs.serving.application import Application
from slurm.cluster import load

HOST = "127.0.0.1"
THREADS = 4
CONNECTIONS = 100


@dataclass(frozen=True)
class Command:
    """Serve the board of a folder of runs to this machine's browser; Ctrl-C ends it."""

    folder: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]", help_behavior_hint="(default: all runs)")
    ] = None
    """Folder with runs, at whatever depth; a run, or a sweep."""
    port: int = 0
    """Port on the loopback; 0 for a free one."""
    cluster: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: as jobs/pretrain.py)")] = ""
    """Profile whose runs/ folder is meant where no folder is given."""


def main(arguments: list[str]) -> int:
    """Parse, say the address, serve until Ctrl-C; returns the exit code."""
    with user_errors():
        command = read_command(Command, arguments)
        folder = command.folder or Path(load(command.cluster).shared_folder) / "runs"
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; allowed: one with runs of jobs/pretrain.py, such as runs/")
        if not 0 <= command.port < 2**16:
            raise ValueError(f"port is {command.port}, allowed: 0 (a free one) to 65535")
        log_to({logging.StreamHandler(): "%(levelname)s %(name)s: %(message)s"})
        serve(folder, command.port)
    return 0


def serve(folder: Path, port: int) -> None:
    """Until Ctrl-C; ValueError where the port is taken."""
    token = secrets.token_urlsafe(24)
    try:
        server = create_server(
            Application(folder, token),
            host=HOST,
            port=port,
            threads=THREADS,
            connection_limit=CONNECTIONS,
            max_request_body_size=0,
            max_request_header_size=1 << 14,
            ident=None,
        )
    except OSError as error:
        raise ValueError(f"port is {port} ({error.strerror}), allowed: one that is free; 0 finds one") from error
    say(f"the board of {folder} is at  http://{HOST}:{server.effective_port}/{token}/")
    say("it is for this machine's browser; from another:  ssh -L PORT:127.0.0.1:PORT THIS-MACHINE; Ctrl-C ends it")
    try:
        server.run()
    finally:
        server.close()


def script() -> int:
    """The command as it is typed."""
    return quietly(lambda: typed(main))


if __name__ == "__main__":
    sys.exit(script())
