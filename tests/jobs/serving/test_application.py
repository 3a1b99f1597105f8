"""What the board answers and to whom: only to the loopback's name, only with the token, only reading, all as text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.board import write_runs
from jobs.serving.application import Application
from tests.jobs.html_page import VOID
from tests.jobs.measured_runs import write_measured

HOSTILE = "<img src=x onerror=alert(1)>"


class Browser:
    """Asks a board of a folder."""

    def __init__(self, folder: Path) -> None:
        self.board = Application(folder, "token")
        self.headers: dict[str, str] = {}

    def get(self, what: str, query: str = "") -> Any:
        """JSON of a request that is answered."""
        status, body = self.asked(f"/token/{what}", query)
        assert status == "200 OK"
        return json.loads(body)

    def asked(self, path: str, query: str = "", method: str = "GET", host: str = "127.0.0.1:1") -> tuple[str, bytes]:
        """Status and body."""
        statuses: list[str] = []

        def start(status: str, headers: list[tuple[str, str]]) -> None:
            statuses.append(status)
            self.headers = dict(headers)

        environ = {"HTTP_HOST": host, "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        body = b"".join(self.board(environ, start))
        return statuses[0], body


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    write_runs(tmp_path / "runs" / "sweep", 3, 250)
    write_runs(tmp_path / "runs" / HOSTILE, 1, 10)
    return Browser(tmp_path / "runs")


@pytest.mark.parametrize(
    ("path", "method", "host", "status"),
    [
        ("/token/runs", "GET", "127.0.0.1:8000", "200"),
        ("/token/", "HEAD", "localhost:9", "200"),
        ("/token/runs", "GET", "evil.example:8000", "421"),
        ("/token/runs", "GET", "127.0.0.1.evil.example", "421"),
        ("/token/runs", "GET", "", "421"),
        ("/token/runs", "POST", "127.0.0.1", "405"),
        ("/token/runs", "DELETE", "127.0.0.1", "405"),
        ("/", "GET", "127.0.0.1", "404"),
        ("//runs", "GET", "127.0.0.1", "404"),
        ("/token", "GET", "127.0.0.1", "404"),
        ("/tokem/runs", "GET", "127.0.0.1", "404"),
        ("/t\xf6ken/runs", "GET", "127.0.0.1", "404"),
        ("/token/config.json", "GET", "127.0.0.1", "404"),
        ("/token/../../etc/passwd", "GET", "127.0.0.1", "404"),
        ("/token/runs/", "GET", "127.0.0.1", "404"),
    ],
)
def test_only_who_knows_the_token_reads_and_nobody_writes(
    browser: Browser, path: str, method: str, host: str, status: str
) -> None:
    said, body = browser.asked(path, method=method, host=host)
    assert said.startswith(status)
    assert (body == b"") == (method == "HEAD")
    assert browser.headers["X-Content-Type-Options"] == "nosniff"
    assert browser.headers["Cache-Control"] == "no-store"
    assert browser.headers["Content-Security-Policy"].startswith("default-src 'none'")
    if status != "200":
        assert len(body) < 100


@pytest.mark.parametrize("asked", ["../sweep/run-000", "/etc", "sweep/run-000", "", "%00", "0" * 16])
def test_no_word_of_a_request_becomes_a_path(browser: Browser, asked: str) -> None:
    browser.get("runs")
    for what in ("run", "gallery"):
        assert browser.asked(f"/token/{what}", f"id={asked}")[0].startswith("404")
    assert browser.get("curves", f"id={asked}&field=loss")["runs"] == {}


def test_the_page_has_no_foreign_address_and_its_code_is_named_by_a_nonce(browser: Browser) -> None:
    _, page = browser.asked("/token/")
    text, policy = page.decode(), browser.headers["Content-Security-Policy"]
    nonces = set(re.findall(r'nonce="([^"]+)"', text))
    assert len(nonces) == 1
    assert policy.count(f"'nonce-{nonces.pop()}'") == 2
    assert "unsafe" not in policy
    assert {"img-src data:", "media-src data:"} <= set(policy.split("; "))  # pictures and clips of the gallery
    assert not re.findall(r"(?:src|href|action)=", text.split("<script")[0])
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\son\w+=|style=|@[A-Z]+@", text.split("<script")[0])
    assert browser.asked("/token/")[1] != page  # a nonce of its own each time
    opened = [tag for tag in re.findall(r"<([a-z0-9]+)[ >]", text.split("<script")[0]) if tag not in VOID]
    closed = re.findall(r"</([a-z0-9]+)>", text.split("<script")[0])
    assert sorted(tag for tag in opened if tag not in ("html", "body")) == sorted(closed)


def test_pictures_are_made_here_with_every_name_escaped(tmp_path: Path) -> None:
    write_measured(tmp_path / "run", names=("<script>alert(1)</script>", "bird", "cat"))
    browser = Browser(tmp_path)
    (run_id,) = browser.get("runs")["runs"]
    assert browser.get("run", f"id={run_id}")["gallery"] is True
    html = browser.get("gallery", f"id={run_id}")["html"]
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert html.count("<figure") == 2


def test_curves_are_those_of_the_metrics(browser: Browser) -> None:
    runs = browser.get("runs")["runs"]
    ids = [run_id for run_id, run in runs.items() if run["name"].startswith("sweep")]
    found = browser.get("curves", "&".join(f"id={run_id}" for run_id in ids) + "&field=loss&field=online_top1")
    assert list(found["runs"]) == ids
    assert {"loss", "online_top1", "learning_rate"} <= set(found["fields"])
    loss = found["runs"][ids[0]]["fields"]["loss"]
    assert [point[0] for point in loss] == list(range(1, 251))
    assert loss[0][2] == 21.0
    assert found["runs"][ids[0]]["steps_per_epoch"] == 100
    assert [point[0] for point in found["runs"][ids[0]]["fields"]["online_top1"]] == [100, 200]
    many = "&".join(f"id={ids[0]}" for _ in range(1000))
    assert browser.asked("/token/curves", many)[0].startswith("400")  # more fields than a page would ask for


def test_what_is_damaged_is_no_end(browser: Browser, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "sweep" / "run-000"
    (run / "config.json").write_text("{")
    (run / "metrics.jsonl").write_bytes(b"\x00" * 100 + b"\n[1]\n" + b'{"step": 1, "epoch": 0, "online_top1": NaN}\n')
    (run / "jobs" / "pretrain" / "attempts.jsonl").write_bytes(b"\xff\xfe\n")
    runs = browser.get("runs")
    assert len(runs["runs"]) == 4
    broken = next(run_id for run_id, run in runs["runs"].items() if run["name"] == "sweep/run-000")
    assert runs["runs"][broken]["measured"] == {}
    assert browser.get("run", f"id={broken}")["settings"] == {}
    assert browser.get("curves", f"id={broken}&field=online_top1")["runs"][broken]["fields"]["online_top1"] == []
