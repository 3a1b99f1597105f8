"""Names that were made to steer a terminal, a shell, Markdown or a page, on their way through the commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from border.text import TREE, visible
from dataprep import write_ffcv
from drills.documents import NAMES, require_quiet
from jobs import eval_all, pretrain, report, status
from slurm import attempts
from slurm.attempts import FAILED, Attempt
from slurm.task import JobSpec
from tests.dataprep.raw_images import encoded, picture
from tests.jobs.html_page import Page
from tests.jobs.measured_runs import write_measured
from tests.jobs.run_folders import digits_config, write_run

WITHOUT_SLASH = tuple(name.replace("/", "-") for name in NAMES)
RUNS = ("".join(WITHOUT_SLASH[:3]), "".join(WITHOUT_SLASH[3:]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def _write(folder: Path) -> Path:
    """A beton of classes and photos with hostile names, some of them broken."""
    for number, name in enumerate(WITHOUT_SLASH):
        (folder / "raw" / name).mkdir(parents=True)
        for sample in range(2):
            photo = folder / "raw" / name / f"{sample}{name}.jpg"
            photo.write_bytes(encoded(picture(number)) if sample else b"no photo")
    (folder / "raw" / f"loop{WITHOUT_SLASH[0]}").symlink_to(".")
    assert write_ffcv.main(["folder", "--root", "raw", "--out", "betons", "--num-workers", "1"]) == 0
    return folder / "betons" / "train.beton"


def test_writing_and_looking_at_betons(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    beton = _write(folder)
    assert write_ffcv.main(["info", str(beton)]) == 0
    assert write_ffcv.main(["verify", str(beton)]) == 0
    odd = beton.rename(beton.with_name(f"{WITHOUT_SLASH[1]}[.beton"))
    beton.with_name("train.beton.json").rename(odd.with_name(f"{odd.name}.json"))
    assert write_ffcv.main(["info", str(odd)]) == 0
    odd.write_bytes(odd.read_bytes()[:-1])
    assert write_ffcv.main(["verify", str(odd)]) == 1
    assert write_ffcv.main(["info", f"none{WITHOUT_SLASH[1]}"]) == 1
    said = "".join(capfd.readouterr())
    require_quiet(said)
    for name in WITHOUT_SLASH:
        assert visible(name) in said.replace("\n", "")


@pytest.mark.parametrize("name", RUNS, ids=["terminal", "markup"])
def test_a_run_called_so_is_planned_watched_measured_and_reported(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str], digits_folder: Path
) -> None:
    run = Path("runs") / name
    data = ["--recipe", "digits", "--data.train", str(digits_folder / "train.beton"), "--cluster", "local"]
    assert pretrain.main([*data, "--data.val", f"none{name}", "--run", str(run), "--dry-run"]) == 0
    write_run(run, digits_config(digits_folder), "digits")
    job = run / "jobs" / "pretrain"
    JobSpec("pretrain", "jobs.pretrain.run_job", {"run": str(run)}).write(job)
    attempts.begin(job, Attempt(f"pid {name}", 0, (name,), 1.0))
    attempts.end(job, Attempt(f"pid {name}", 0, (name,), 1.0), FAILED, f"ValueError: {name}", progress=-1)
    (job / "rank_0.log").write_bytes(f"step {name}\n".replace("\n", " ").encode("utf-8", "surrogateescape"))
    status.main([str(run)])
    status.main([str(run), "--logs"])
    with pytest.raises(SystemExit):
        status.main([str(run), "--logs", name])
    eval_all.main([str(run), "--cluster", "local", "--dry-run", "--evals", "knn"])
    with pytest.raises(SystemExit):
        eval_all.main([str(run), "--cluster", "local", "--evals", name])
    with pytest.raises(SystemExit):
        pretrain.main(["--recipe", name])
    said = "".join(capfd.readouterr())
    require_quiet(said)
    assert visible(name) in said.replace("\n", "")


@pytest.mark.slow
def test_reports_are_inert(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [Path(name) for name in RUNS]
    for run in runs:
        write_measured(run, names=NAMES, pictures=3)
    (runs[-1] / "encoder.pt").unlink()
    assert report.main([str(run) for run in runs]) == 0
    require_quiet("".join(capfd.readouterr()))
    for run in runs:
        page = Page((run / "report.html").read_text())  # no scripts, no handlers, no links to elsewhere
        assert "could not be made" not in page.said()
        written = (run / "report.md").read_text()
        require_quiet(written + page.text)
        parsed = MarkdownIt("gfm-like", {"linkify": False}).parse(written)
        kinds = {token.type for token in parsed} | {child.type for token in parsed for child in token.children or []}
        assert not kinds & {"html_block", "html_inline", "link_open", "image", "code_inline", "s_open", "em_open"}
        (title,) = [parsed[number + 1] for number, token in enumerate(parsed) if token.type == "heading_open"]
        assert "".join(child.content for child in title.children or []) == visible(run)
    Page((runs[0] / "comparison.html").read_text())
    (line,) = [line for line in (runs[1] / "report.md").read_text().splitlines() if line.startswith("    python")]
    assert line.split()[1] == f"{TREE}/jobs/pretrain.py"  # not here, so by its whole path
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, check=True).stdout
    assert said == f"python\n{TREE}/jobs/pretrain.py\n--run\n{runs[1]}\n".encode("utf-8", "surrogateescape")
