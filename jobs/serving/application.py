"""Answers a browser on this machine: a page and, for it, JSON; whoever does not know the token gets nothing.

Other users of the machine reach its loopback too, so the address holds a token; a page of another site may have a name
of its own lead to the loopback (DNS rebinding), so the host must be the loopback by name or number. There is no request
that changes anything, and none whose words become a path.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jobs.reporting.page import escape
from jobs.serving.curves import CurveFile
from jobs.serving.details import details, gallery
from jobs.serving.overview import Known, Overview

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
MAX_CURVES = 12
"""Runs whose curves are drawn at a time."""
MAX_WORDS = 64
"""Of a request."""
MAX_FOLLOWED = 48
"""Runs whose curves are held."""
HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")  # of whatever port: a tunnel may begin at another one
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Query = dict[str, list[str]]


class Refused(Exception):
    """A request that is not answered; the message is the status line."""


class Application:
    """The board of a folder, as WSGI has it (PEP 3333)."""

    def __init__(self, root: Path, token: str) -> None:
        self._overview, self._token = Overview(root), token.encode()
        self._curves: OrderedDict[str, CurveFile] = OrderedDict()
        self._lock = threading.Lock()  # one look at a time, however many pages are open
        self._routes: dict[str, Callable[[Query], Any]] = {
            "runs": lambda _: self._overview.look(),
            "run": lambda query: details(self._run(query)),
            "gallery": lambda query: gallery(self._run(query)),
            "curves": self._some_curves,
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        policy = NOTHING
        try:
            what, query = self._asked(environ)
            if what:
                with self._lock:
                    answer = self._routes[what](query)
                status, kind, body = "200 OK", "application/json", json.dumps(answer, allow_nan=False).encode()
            else:
                nonce = secrets.token_urlsafe(16)
                policy += f"; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
                policy += "; img-src data:; media-src data:; connect-src 'self'"
                status, kind, body = "200 OK", "text/html; charset=utf-8", self._page(nonce).encode()
        except Refused as refused:
            status, kind, body = str(refused), "text/plain; charset=utf-8", f"{refused}\n".encode()
        except Exception as error:  # whatever a damaged file leads to: the page says so and goes on
            log.exception("a request failed")
            status, kind = "500 Internal Server Error", "application/json"
            body = json.dumps({"error": type(error).__name__}).encode()
        length = ("Content-Length", str(len(body)))
        start_response(status, [("Content-Type", kind), length, ("Content-Security-Policy", policy), *HEADERS])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _asked(self, environ: dict[str, Any]) -> tuple[str, Query]:
        """What is asked for, empty for the page; Refused for what is not answered."""
        if HOST.fullmatch(environ.get("HTTP_HOST", "")) is None:
            raise Refused("421 Misdirected Request")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            raise Refused("405 Method Not Allowed")
        _, token, *rest = [*environ.get("PATH_INFO", "").split("/"), ""][:4]
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token) or not rest:
            raise Refused("404 Not Found")
        what = rest[0]
        if "/".join(("", token, what)) != environ["PATH_INFO"] or (what and what not in self._routes):
            raise Refused("404 Not Found")
        try:
            return what, parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=MAX_WORDS)
        except ValueError as error:
            raise Refused("400 Bad Request") from error

    def _page(self, nonce: str) -> str:
        page = (FOLDER / "board.html").read_text(encoding="utf-8")
        parts = {"STYLE": FOLDER / "board.css", "SCRIPT": FOLDER / "board.js"}
        for name, path in parts.items():
            page = page.replace(f"@{name}@", path.read_text(encoding="utf-8"))
        return page.replace("@NONCE@", nonce).replace("@FOLDER@", escape(self._overview.root))

    def _run(self, query: Query) -> Known:
        run = self._overview.runs.get(query.get("id", [""])[0])
        if run is None:
            raise Refused("404 Not Found")
        return run

    def _some_curves(self, query: Query) -> dict[str, Any]:
        """The asked fields of the asked runs; `fields` are all that some of them has."""
        names = query.get("field", [])
        curves: dict[str, Any] = {}
        fields: dict[str, None] = {}
        for run_id in query.get("id", [])[:MAX_CURVES]:
            if run_id not in self._overview.runs:
                continue
            run = self._overview.runs[run_id]
            file = self._curves.pop(run_id, None) or CurveFile(run.path)
            self._curves[run_id] = file
            file.read_on()
            fields |= dict.fromkeys(file.fields())
            points = {name: file.curve(name) for name in names}
            curves[run_id] = {"steps_per_epoch": file.steps_per_epoch(), "fields": points}
        while len(self._curves) > MAX_FOLLOWED:
            self._curves.popitem(last=False)
        return {"fields": list(fields), "runs": curves}
