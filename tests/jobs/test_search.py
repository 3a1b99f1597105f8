"""The search command: the nearest by cosine, printed and on a page that holds every name in check."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import vicreg
from border.text import visible
from drills.documents import NAMES, require_quiet
from jobs import embed, search
from jobs.execution.search import nearest
from jobs.reporting import feature_file
from tests.dataprep.raw_images import encoded, make_tree, picture
from tests.jobs.html_page import Page
from tests.jobs.run_folders import digits_config, write_run

WITHOUT_SLASH = tuple(name.replace("/", "-") for name in NAMES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "x"
    write_run(folder, digits_config(digits_folder), "digits")
    return folder


def _search(*arguments: str | Path) -> int:
    return search.main([*map(str, arguments)])


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        _search(*arguments)
    assert ended.value.code in (1, 2)
    return capsys.readouterr().err


def test_nearest_is_a_sorted_list_of_cosines() -> None:
    random = np.random.default_rng(0)
    queries, gallery = (random.normal(size=(n, 5)).astype(np.float32) for n in (3, 40))
    gallery[7] = gallery[3]  # of equals the first
    gallery[9] = 0.0
    samples, cosines = nearest(queries, gallery, 40)
    for query, row, found in zip(queries, samples, cosines, strict=True):
        lengths = np.maximum(np.sqrt((gallery.astype(np.float64) ** 2).sum(1)), 1e-12)
        reference = (gallery @ query.astype(np.float64)) / lengths / np.sqrt((query.astype(np.float64) ** 2).sum())
        assert list(row) == sorted(range(40), key=lambda sample: (-np.float32(reference[sample]), sample))
        np.testing.assert_allclose(found, reference[row], atol=1e-6)
    assert nearest(queries, gallery, 100)[0].shape == (3, 40)


def test_a_folder_of_photos_is_searched(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = make_tree(tmp_path / "photos")
    queries = [photos / "bee" / "002.jpg", photos / "cow" / "000.jpg"]
    command = (run, "--gallery", photos, "--query", *queries, "--neighbours", "4", "--out", tmp_path / "found.html")
    assert _search(*command) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(str(queries[0]))
    assert lines[at + 1].split() == ["1.000", "bee", "bee/002.jpg"]
    names = [line.split()[2] for line in lines[at + 1 : at + 5]]
    model = vicreg.load(run, device="cpu")
    paths = sorted(photos.rglob("*.jpg"))
    features = model.embed(paths).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    order = np.argsort(-(features @ features[paths.index(queries[0])]))[:4]
    assert names == [str(paths[place].relative_to(photos)) for place in order]
    page = Page((tmp_path / "found.html").read_text())
    assert page.sections() == [str(path) for path in queries]
    described = [values["aria-label"] for tag, values in page.tags if tag == "svg" and values.get("role") == "img"]
    assert described[0] == f"query {queries[0]}"
    assert described[1] == "bee/002.jpg, class bee, cosine 1.000"
    assert len(described) == 2 * 5


def test_a_file_of_features_is_searched_and_must_be_of_this_encoder(
    run: Path, tmp_path: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, file = make_tree(tmp_path / "photos", 2), tmp_path / "features.npy"
    where = [str(run), "--images", str(photos), "--out", str(file), "--layer", "layer2", "--cluster", "local"]
    assert embed.main(where) == 0
    query = ("--gallery", file, "--query", photos / "ant" / "000.jpg")
    assert _search(run, *query) == 0
    said = capsys.readouterr().out
    assert "1.000  ant  ant/000.jpg" in said
    assert f"written: {run / 'search.html'}" in said
    assert ", layer layer2." in Page((run / "search.html").read_text()).said()
    Path(feature_file.described(file)["beton"]).unlink()
    assert _search(run, *query) == 0
    assert "No pictures: " in Page((run / "search.html").read_text()).said()
    assert "allowed for " in _refused(capsys, run, *query, "--layer", "layer3")
    write_run(tmp_path / "other", digits_config(digits_folder), "digits", encoder_seed=3)
    assert "has features of another encoder than" in _refused(capsys, tmp_path / "other", *query)
    file.write_bytes(file.read_bytes()[:100])
    assert "is no file of features, or it is damaged" in _refused(capsys, run, *query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--query", "none.jpg"), "query is none.jpg, allowed: files of images; there is no such file"),
        (("--query", "q.jpg", "--neighbours", "0"), "neighbours is 0, allowed: 1 to 50"),
        (("--query", "q.jpg", "--out", "found.jpg"), "out is 'found.jpg', allowed: a name that ends in .html"),
    ],
)
def test_refusals(
    options: tuple[str, ...],
    message: str,
    run: Path,
    digits_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in _refused(capsys, run, "--gallery", digits_folder / "val.beton", *options)


def test_names_do_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    photos = tmp_path / "photos"
    for number, name in enumerate(WITHOUT_SLASH):
        (photos / name).mkdir(parents=True)
        (photos / name / f"{name}.jpg").write_bytes(encoded(picture(number)))
    query = tmp_path / f"{''.join(WITHOUT_SLASH[:3])}.jpg"
    query.write_bytes(encoded(picture(0)))
    for suffix in feature_file.SUFFIXES:
        file = tmp_path / f"features{suffix}"
        assert embed.main([str(run), "--images", str(photos), "--out", str(file), "--cluster", "local"]) == 0
        assert len(feature_file.read(file).names) == len(WITHOUT_SLASH)
    assert _search(run, "--gallery", photos, "--query", query, "--neighbours", "50") == 0
    said = "".join(capsys.readouterr())
    page = (run / "search.html").read_text()
    require_quiet(said + page)
    parsed = Page(page)  # no scripts, no handlers, no links to elsewhere
    described = " ".join(values.get("aria-label", "") for _, values in parsed.tags)
    for name in WITHOUT_SLASH:
        assert visible(name) in said
        assert re.sub(r"\s+", " ", visible(name)) in re.sub(r"\s+", " ", described)
