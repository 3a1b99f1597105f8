"""The plan of the house, as data: who may import whom, where foreign packages may appear, and the README's tree."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jobs", "vicreg", "dataprep", "slurm")
TREE_FOLDERS = (
    "jobs",
    "vicreg",
    "vicreg/methods",
    "vicreg/evals",
    "dataprep",
    "slurm",
    "slurm/devcluster",
    "benchmarks",
)
MAX_LINES = 300

MAY_IMPORT = {
    "jobs": {"jobs", "vicreg", "dataprep", "slurm"},
    "vicreg": {"vicreg", "dataprep.beton", "dataprep.subset"},
    "dataprep": {"dataprep"},
    "slurm": {"slurm"},
}
FLOORS = [  # from the ground up; a file of vicreg imports only from lower floors
    {
        "config",
        "keyed_random",
        "kernels",
        "lars_kernels",
        "colour_kernels",
        "crop_kernels",
        "plane_kernels",
        "loss_forms",
        "schedule",
    },
    {"blur", "order", "view_parameters", "distributed", "lars", "resample"},
    {"config_json", "covariance", "gradient_sum", "joint_views"},
    {"online_head"},
    {"augment", "checkpoint", "decode", "guards", "loss", "metrics", "model", "planes", "sync_batch_norm"},
    {"batches", "cost", "export", "methods"},
    {"array_views", "block_reads", "device_views", "foreign_checkpoints", "foreign_formats"},
    {"data"},
    {"features", "flops", "learner"},
    {"prediction", "saver"},
    {"evals"},
    {"online_probe"},
    {"train"},
]
ONLY_IN = {
    "torch.distributed": {"vicreg/distributed.py"},
    "submitit": {"slurm"},
    "triton": {f"vicreg/{name}_kernels.py" for name in ("colour", "crop", "lars", "plane")},
    "ffcv": {"vicreg/decode.py", "vicreg/data.py", "dataprep", "benchmarks"},
}


def _files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _imports(path: Path, top_level_only: bool = False) -> list[str]:
    """Full names of the modules that a file imports; `from a import b` counts as a.b."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _is_or_under(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


@pytest.mark.parametrize("path", _files(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = [name for name in _imports(path) if name.split(".")[0] in PACKAGES]
    bad = [name for name in ours if not any(_is_or_under(name, allowed) for allowed in MAY_IMPORT[package])]
    assert not bad, f"{path} imports {bad}"


def _floor(room: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert len(found) == 1, f"vicreg/{room} stands on {len(found)} floors; add it to FLOORS"
    return found[0]


@pytest.mark.parametrize("path", _files("vicreg"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_only_from_lower_floors(path: Path) -> None:
    parts = path.relative_to(ROOT / "vicreg").with_suffix("").parts
    if parts == ("__init__",):
        return
    for name in _imports(path):
        if not name.startswith("vicreg."):
            continue
        room = name.split(".")[1]
        if room != parts[0]:
            assert _floor(room) < _floor(parts[0]), f"{path} imports {name}, which is not on a lower floor"


@pytest.mark.parametrize("package", ONLY_IN)
def test_foreign_packages_stay_in_their_place(package: str) -> None:
    for path in _files(*PACKAGES, "benchmarks"):
        place = str(path.relative_to(ROOT))
        if any(_is_or_under(name, package) for name in _imports(path)):
            allowed = any(place == where or place.startswith(where + "/") for where in ONLY_IN[package])
            assert allowed, f"{place} imports {package}, allowed: {ONLY_IN[package]}"


def test_ffcv_is_imported_lazily() -> None:
    for path in _files(*PACKAGES):
        eager = [name for name in _imports(path, top_level_only=True) if _is_or_under(name, "ffcv")]
        assert not eager, f"{path} imports {eager} when it is imported"


def test_no_script_shadows_another_module() -> None:
    taken = set(sys.stdlib_module_names) | (packages_distributions().keys() - set(PACKAGES))
    for folder in ("jobs", "dataprep", "slurm", "benchmarks"):
        shadows = {path.stem for path in (ROOT / folder).glob("*.py")} & taken
        assert not shadows, f"{folder}/ has {shadows}, which would hide modules of that name from its scripts"


@pytest.mark.parametrize("path", _files(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_rooms_not_halls(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    if text:
        assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it is"
    assert path.stem not in {"utils", "misc", "common", "helpers", "base"}


def _readme_tree() -> dict[str, set[str]]:
    """Folders and their files as the README's tree lists them."""
    text = (ROOT / "README.md").read_text()
    block = text.split("<!-- tree -->")[1].split("```")[1]
    tree: dict[str, set[str]] = {}
    folder = ""
    for line in block.splitlines()[1:]:
        if not line.strip():
            continue
        name = line.split()[0]
        if name.endswith("/"):
            folder = name.rstrip("/")
            tree[folder] = set()
        else:
            tree[folder].add(name)
    return tree


def test_the_readme_shows_the_tree_on_disk() -> None:
    tree = _readme_tree()
    for folder in TREE_FOLDERS:
        on_disk = {path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"}
        assert tree.get(folder) == on_disk, f"README's tree of {folder}/ is not what is on disk"
