"""The pages: well formed, without a network, the same every time, whole although parts are missing or damaged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import report
from jobs.execution.report import describe_run
from jobs.planning.recipes import recipe
from jobs.reporting import figures, html_report, page
from jobs.reporting.document import markdown
from jobs.reporting.measured_run import load_run, summary
from jobs.reporting.published_tables import most_like, published_alone
from jobs.serving import application
from slurm import attempts, chain
from slurm.attempts import Attempt
from tests.jobs.html_page import Page
from tests.jobs.measured_runs import CLASSES, class_details, rename, write_measured, write_result
from tests.jobs.run_folders import write_run
from vicreg.evals import protocols
from vicreg.evals.results import TRAINED

ALL = [
    "Results",
    "Beside published numbers",
    "Training",
    "Evaluations, epoch by epoch",
    "Along training",
    "Class by class",
    "Map of the features",
    "Nearest neighbours",
    "Settings and origin",
]
SCRIPT = '<script>alert("x")</script>'
NASTY = (SCRIPT, "\"><img src='http://a.b/c'>", "$\\frac{1$ & 猫", "\udcff\n\u202e]]>", "a" * 300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results of every kind, to be copied."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    write_measured(run)
    return run


@pytest.fixture(scope="module")
def whole_parts(whole: Path) -> dict[str, str]:
    """The parts of its page."""
    return _parts(html_report.run_page(load_run(whole)))


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run in the folder `digits`, above which the report is asked for."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, "digits"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of a page's time; tests of the words beside them do without."""
    monkeypatch.setattr(figures, "_svg", lambda *_: "<svg></svg>")


def _page(run: Path) -> Page:
    return Page(html_report.run_page(load_run(run)))


def test_a_whole_run_has_every_part(run: Path) -> None:
    shown = _page(run)
    assert shown.sections() == ALL
    figures = [values["class"] for tag, values in shown.tags if tag == "figure"]
    assert figures.count("chart") == 9 + 3 + 2 + 1 + 1  # training, linear, semi-supervised, checkpoints, classes
    assert figures.count("map") == 2
    said = shown.said()
    assert "trained encoder (rate 0.3, decay 1e-06)" in said
    assert "best of 3 heads (rate 1, decay 1e-06)" in said
    assert "Left out of the mean: boat: no test image shows it." in said
    assert "could not be made" not in said
    assert all(name in said for name in CLASSES)
    windows = [values for tag, values in shown.tags if tag == "use" and "sheet" in values["href"]]
    assert len(windows) > 84


def test_nothing_comes_from_a_network(run: Path) -> None:
    assert "http" not in html_report.run_page(load_run(run))


def test_equal_runs_give_equal_pages(run: Path) -> None:
    assert html_report.run_page(load_run(run)) == html_report.run_page(load_run(run))


def test_the_command_writes_pages_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, "other")
    assert report.main(["digits", "other"]) == 0
    printed = capsys.readouterr().out
    for name in ("digits/report", "other/report", "digits/comparison"):
        Page(Path(f"{name}.html").read_text())
        assert f"{name}.html" in printed
        assert f"{name}.md" in printed
    assert not list(run.glob(".*.tmp"))


def test_names_are_text_whatever_they_hold(run: Path) -> None:
    write_measured(Path("<i>&amp;$x_{"), names=NASTY)
    shown = _page(Path("<i>&amp;$x_{"))
    assert shown.sections() == ALL
    assert "could not be made" not in shown.said()
    assert shown.headings[0] == (1, "<i>&amp;$x_{")
    assert SCRIPT in shown.said()
    Page(html_report.comparison_page([load_run(Path("<i>&amp;$x_{")), load_run(run)]))


def test_a_page_with_as_many_pictures_as_there_can_be_is_below_three_megabytes(run: Path) -> None:
    write_measured(run, pictures=1000)
    assert len(html_report.run_page(load_run(run)).encode()) < 3_000_000


def test_many_classes_are_neither_named_nor_all_drawn(run: Path) -> None:
    write_measured(run, names=tuple(f"class {number}" for number in range(100)), pictures=200)
    said = _page(run).said()
    assert "100 classes, not coloured" in said
    assert "The 30 best and worst of 100 classes." in said


def _change(run: Path, name: str, **changes: Any) -> None:
    """Change fields of a result."""
    path = run / "evals" / name / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _change_gallery(run: Path, part: str, **changes: Any) -> None:
    path = run / "evals" / "gallery" / "result.json"
    content = json.loads(path.read_text())
    content["details"][part] |= changes
    path.write_text(json.dumps(content))


def _damage_heads(run: Path) -> None:
    for name in ("linear", "semisup"):
        _change(run, name, details={"heads": [3, {"top1": "x"}]})


STRANGE_LINE = '{"step": 1, "epoch": 0, "loss": "x", "variance": NaN}\n'
SAYS, GONE = {"Results"}, {"Class by class"}
# How something is damaged, the parts that then say so, those that are not there.
DAMAGE: dict[str, tuple[Callable[[Path], object], set[str], set[str]]] = {
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), set(), {"Training"}),
    "metrics of bytes": (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n[1]\n"), SAYS, {"Training"}),
    "metrics of another kind": (lambda run: (run / "metrics.jsonl").write_text(STRANGE_LINE), set(), {"Training"}),
    "no encoder": (lambda run: (run / "encoder.pt").write_text("not one"), SAYS, set()),
    "a result cut off": (lambda run: (run / "evals" / "svm" / "result.json").write_text("{"), set(), GONE),
    "a result of another kind": (lambda run: _change(run, "svm", metrics=[1]), SAYS, GONE),
    "metrics that are no numbers": (lambda run: _change(run, "svm", metrics={"map": None}), SAYS, GONE),
    "data without splits": (lambda run: _change(run, "svm", data={}), SAYS, GONE),
    "a module of another version": (lambda run: _change(run, "svm", module="gone"), SAYS, GONE),
    "classes of another kind": (lambda run: _change(run, "svm", details={"classes": [1]}), set(), GONE),
    "heads of another kind": (_damage_heads, set(), {"Evaluations, epoch by epoch"}),
    "a map without places": (lambda run: _change_gallery(run, "map", x=[], sheet={}), {"Map of the features"}, set()),
    "no labels": (lambda run: _change_gallery(run, "neighbours", train_labels=None), {"Nearest neighbours"}, set()),
    "a strange folder": (lambda run: (run / "evals" / "svm").rename(run / "evals" / "svm@y"), set(), GONE),
    "a strange origin": (lambda run: rename(run, versions=3), {"Settings and origin"}, set()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_leaves_the_rest_as_it_is(damage: str, run: Path, whole_parts: dict[str, str]) -> None:
    do, speaking, absent = DAMAGE[damage]
    do(run)
    shown = _page(run)
    assert shown.sections() == [title for title in ALL if title not in absent]
    after = _parts(shown.text)
    broken = {title for title, body in after.items() if "could not be made" in body or "Damaged: " in body}
    assert broken == speaking
    if not speaking & {"Map of the features"}:
        assert after["Map of the features"] == whole_parts["Map of the features"]
    assert markdown(describe_run(load_run(run)))  # terminal and Markdown hold as well


def _parts(text: str) -> dict[str, str]:
    """The page's sections by their titles."""
    return dict(re.findall(r"<h2>(.*?)</h2>\n(.*?)\n</section>", text, flags=re.DOTALL))


def test_a_run_that_goes_on_shows_its_curves(run: Path) -> None:
    (run / "encoder.pt").unlink()
    shown = _page(run)
    assert "Training" in shown.sections()
    assert "Not finished. Nothing is measured. Go on with" in shown.said()


@pytest.mark.usefixtures("undrawn")
def test_a_run_with_nothing_but_a_configuration(run: Path) -> None:
    for path in (run / "metrics.jsonl", run / "encoder.pt", *run.glob("evals/*/result.json")):
        path.unlink()
    assert _page(run).sections() == ["Results", "Settings and origin"]


@pytest.mark.usefixtures("undrawn")
def test_what_is_expected_is_that_of_the_same_length(run: Path) -> None:
    """No other run's: it would be read as a promise for this one."""
    assert "expected of it" in _page(run).said()
    content = json.loads((run / "config.json").read_text())
    content["pretrain"]["data"]["train"] = "elsewhere/train.beton"
    (run / "config.json").write_text(json.dumps(content))
    assert "expected of it" in _page(run).said()
    content["pretrain"]["train"]["epochs"] = 20
    (run / "config.json").write_text(json.dumps(content))
    assert "expected of it" not in _page(run).said()


@pytest.mark.usefixtures("undrawn")
def test_of_a_run_that_was_given_up_nothing_is_expected_and_the_reason_is_said(run: Path) -> None:
    (run / "encoder.pt").unlink()
    for number in range(3):
        attempt = Attempt("7", 0, ("n1",), float(number), start=number)
        attempts.begin(chain.job_folder(run, "pretrain"), attempt)
        attempts.end(chain.job_folder(run, "pretrain"), attempt, "failed", "rank 1 on n2: Killed", progress=5)
    said = _page(run).said()
    assert "Given up after 3 failures in a row without getting further: rank 1 on n2: Killed." in said
    assert "expected of it" not in said


@pytest.mark.usefixtures("undrawn")
def test_an_imported_encoder_was_not_trained_here(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    rename(run, imported={"form": "a whole released checkpoint"})
    said = _page(run).said()
    assert "imported (a whole released checkpoint)" in said
    assert "45 epochs" not in said


def _whole(train: int, val: int) -> dict[str, Any]:
    split = {"path": "data/x/train.beton", "num_images": train, "size_bytes": 1, "fingerprint": "a"}
    return {"train": split, "val": split | {"path": "data/x/val.beton", "num_images": val}}


def test_published_numbers_stand_beside_those_of_the_same_data_only(run: Path, whole_parts: dict[str, str]) -> None:
    said = whole_parts["Beside published numbers"]
    assert "Measured here: none of them." in said
    assert all(column.data_set in said for column in protocols.COLUMNS)
    assert "<details><summary>For orientation: published on ImageNet, not measured here</summary>" in said
    assert 'class="own"' not in said
    whole = _whole(1_281_167, 50_000)
    write_result(run, "linear", TRAINED, {"top1": 72.9, "top5": 90.8}, data=whole, num_classes=1000)
    beside = _parts(html_report.run_page(load_run(run)))["Beside published numbers"]
    assert "<details>" not in beside
    own = re.findall(r'<tr class="own">(.*?)</tr>', beside)
    assert len(own) == 1
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", own[0])
    assert cells[:2] == ["measured", "digits"]
    assert "45 epochs of data/digits/train.beton, batch 128" in cells[2]
    assert cells[3:] == ["72.9", "90.8"]
    others = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", beside)[1:]]
    assert {row[0] for row in others} == {"published"}
    assert ["published", "VICReg", "ResNet-50, ImageNet, 1000 epochs", "73.2", "91.1"] in others


@pytest.mark.parametrize(
    ("name", "data_set", "counted"),
    [
        ("digit-captions", "COCO captions", "resnet10-narrow at 32 px and gru-32-64 of captions, 20 epochs"),
        ("tones", "ESC-50", "resnet10-narrow and resnet10-narrow-wave of sound at 8,000 Hz, 10 epochs"),
    ],
)
def test_a_run_of_two_modalities_is_called_so_and_stands_beside_its_like(
    name: str, data_set: str, counted: str, tmp_path: Path
) -> None:
    config = recipe(name).pretrain
    write_run(tmp_path / "run", config, name)
    run = load_run(tmp_path / "run")
    assert f"recipe {name}, {counted}" in summary(run)
    assert f"{config.train.global_batch} {'clips' if name == 'tones' else 'images'} a step" in summary(run)
    assert most_like(config) == data_set
    shown = page.blocks(published_alone(data_set))
    assert f"{data_set}: published, percent" in shown
    assert "VICReg" in shown
    metrics = {"image_to_text_r1": 27.0, "image_to_text_r5": 55.0, "text_to_image_r1": 28.2}
    write_result(tmp_path / "run", "retrieval", TRAINED, metrics)
    tiles = html_report.run_page(load_run(tmp_path / "run")).split('class="tiles"')[1].split("</ul>")[0]
    assert [text for text in ("27.0", "28.2", "55.0") if text in tiles] == ["27.0", "28.2"]


def test_a_player_is_as_wide_as_it_takes_to_show_its_button() -> None:
    for sheet in (page.STYLE, Path(application.__file__).with_name("board.css")):
        (width_rem,) = re.findall(r"\.heard \.row {[^}]*repeat\(auto-fill, ([\d.]+)rem\)", sheet.read_text())
        assert float(width_rem) * 16 >= 105


def test_runs_stand_over_each_other(run: Path) -> None:
    shutil.copytree(run, "other")
    content = json.loads(Path("other/config.json").read_text())
    content["pretrain"]["optimizer"]["base_lr"] = 0.5
    Path("other/config.json").write_text(json.dumps(content))
    shown = Page(html_report.comparison_page([load_run(run), load_run(Path("other"))]))
    assert shown.sections() == ["Runs", "Results", "Training", "Evaluations, epoch by epoch"]
    rows = re.findall(r"<tr>(.*?)</tr>", _parts(shown.text)["Runs"])
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    assert ["optimizer.base_lr", "0.002", "0.5"] in cells
    training = _parts(shown.text)["Training"]
    assert training.count("stroke: var(--s0); stroke-width: 1.5") == 9
    assert training.count("stroke: var(--s1); stroke-width: 1.5") == 9


def test_colours_can_be_told_from_the_paper() -> None:
    style = page.STYLE.read_text()
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")[:2]
    for scheme in (light, dark.split("}\n}")[0]):
        colors = dict(re.findall(r"--(\w+): #([0-9a-f]{6})", scheme))
        for name in ("ink", "quiet", "link", "s1"):  # of text
            assert min(_contrast(colors[name], colors[paper]) for paper in ("paper", "wash")) >= 4.5, name
        for name in [name for name in colors if re.fullmatch(r"[sc]\d", name)]:  # of lines, bars and dots
            assert _contrast(colors[name], colors["paper"]) >= 3, name


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast of two colours."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.usefixtures("undrawn")
def test_baselines_stand_beside_only_what_was_measured_alike(run: Path) -> None:
    def tile(name: str) -> str:
        lead = html_report.run_page(load_run(run)).split("<nav")[0]
        return next(part for part in lead.split("<li>") if f"<span>{name}, " in part)

    assert "random weights 90.0" in tile("linear")
    assert "random weights 80.0" in tile("svm")
    write_result(run, "svm", TRAINED, {"map": 86.0}, class_details(CLASSES), data=_whole(5_011, 4_952))
    assert "random weights" not in tile("svm")
    assert "random weights" not in _parts(html_report.run_page(load_run(run)))["Class by class"]
