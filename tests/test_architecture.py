"""The plan of the house, as data: who may import whom, where foreign packages may appear, and the README's folders."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jobs", "vicreg", "dataprep", "slurm", "disk", "border")
MAX_LINES = 300
MAX_README_LINES = 220
ANYTHING = {"utils", "util", "misc", "common", "core", "helpers", "helper", "base", "lib", "tools"}
"""Names that could hold anything, and so say nothing."""

MAY_IMPORT = {
    "jobs": {"jobs", "vicreg", "dataprep", "slurm", "disk", "border"},
    "vicreg": {
        "vicreg",
        "dataprep.beton",
        "dataprep.writing.images",
        "dataprep.writing.channel_images",
        "dataprep.writing.sound_clips",
        "disk",
        "border",
    },
    "dataprep": {"dataprep", "disk", "border"},
    "slurm": {"slurm", "disk", "border"},
    "disk": {"disk"},
    "border": {"border"},
}
FLOORS: dict[str, list[set[str]]] = {
    # From the ground up: a room or a wing of a folder imports only from lower floors of that folder.
    "border": [{"documents", "help_texts", "private_folder", "text", "typed_numbers", "waiting_threads"}, {"terminal"}],
    "vicreg": [
        {"branch_kinds", "checked", "half_precision", "kernels", "ranks", "run_files", "stem"},
        {"sound_config"},
        {"stop_rule", "view_config"},
        {"online_config"},
        {"config"},
        {
            "checkpoint",
            "config_json",
            "expander",
            "joint_views",
            "lab_colours",
            "losses",
            "method_file",
            "one_branch",
            "patches",
            "presets",
            "schema",
        }
        | {"views"},
        {"encoder_names", "text_encoder", "wave_resnet"},
        {"model"},
        {"data", "key_queue", "method"},
        {"branches", "loss_costs", "memory_bank", "moving_average", "one_network", "optim", "shared_terms"},
        {"methods"},
        {"networks"},
        {"cost", "detection", "exchange"},
        {"evals"},
        {"training"},
        {"trained"},
    ],
    "vicreg/ranks": [
        {"network", "waiting"},
        {"distributed"},
        {"gradient_sum", "rendezvous", "sync_batch_norm"},
        {"meeting"},
    ],
    "vicreg/losses": [
        {"forms", "settings", "written_gradient"},
        {"contrastive", "correlation", "covariance"},
        {"barlow_twins", "cross_modal", "directions", "prediction", "prototypes", "sigreg", "variance_covariance"},
        {"vicreg"},
    ],
    "vicreg/optim": [{"lars_kernels", "schedule"}, {"lars"}, {"optimizers"}],
    "vicreg/views": [
        {"blur", "colour_kernels", "crop_kernels", "keyed_random", "resample"},
        {"captions", "keyed_random_in_torch", "order", "view_parameters"},
        {"drawn_in_torch", "mel", "rand_augment"},
        {"colour_operations", "sound"},
        {"augment"},
    ],
    "vicreg/data": [
        {"buffers", "channels", "decode", "other_views", "plane_kernels", "planes", "vocabulary"},
        {"batches", "captions"},
        {"block_reads", "device_images", "device_views", "plane_batches"},
        {"array_views"},
        {"beton_views", "device_centres", "sound_views"},
        {"loaders"},
    ],
    "vicreg/methods": [
        {"barlow_twins", "byol", "clip", "cmc", "cpc_v2", "moco_v2", "pirl", "sigreg", "simclr", "simsiam"}
        | {"supcon", "supervised", "swav", "vicreg", "vse_pp"},
        {"infomin"},
    ],
    "vicreg/cost": [
        {"counts", "live_bytes", "loss_form", "view_shapes", "weightless"},
        {"empty_views", "evaluations"},
        {"counting"},
        {"counted"},
        {"estimate"},
        {"fitting", "flops"},
        {"prediction"},
    ],
    "vicreg/networks": [
        {"barlow_twins", "byol", "clip", "cmc", "cpc_v2", "moco_v2", "pirl", "sigreg", "simclr", "simsiam"}
        | {"supcon", "supervised", "swav", "vicreg", "vse_pp"},
        {"infomin"},
    ],
    "vicreg/exchange": [
        {"detectron2_names", "encoder_file"},
        {"foreign_formats", "foreign_names", "pair"},
        {"foreign_checkpoints"},
        {"given_weights"},
    ],
    "vicreg/detection": [
        {"encoder_maps", "keyed_sampler", "objects_found", "settings"},
        {"coco_measure", "pictures", "proposals", "regions", "scenes", "voc_measure"},
        {"crops", "detector"},
        {"detections"},
    ],
    "vicreg/evals": [
        {"settings"},
        {"clip_pictures", "data_identity", "encoding", "kept_features", "kept_parts", "published"},
        {"framed_images"},
        {"detection_protocols", "results"},
        {"features", "heads", "layers", "one_vs_rest", "protocols", "work"},
        {"clip_pool", "few_labels", "gallery", "knn", "linear", "step_training", "svm"},
        {"detector_training", "linear_segmentation", "retrieval", "semisup"},
        {"detection", "memory", "sound"},
    ],
    "vicreg/training": [
        {"clock", "guards", "metrics", "oversight", "running_statistics"},
        {"early_end", "micro_batches", "online_head"},
        {"learner"},
        {"captured_step", "online_probe", "saver", "trial"},
        {"train"},
    ],
    "dataprep": [{"beton"}, {"writing"}, {"sources"}, {"console"}, {"write_ffcv"}],
    "dataprep/beton": [
        {"bytes", "captions", "keyed_choice", "objects", "pixel_format", "segments", "turbojpeg"},
        {"jpeg_decoder", "layout", "manifest"},
        {"jpeg_check"},
        {"tables"},
        {"contract"},
        {"subset", "verification"},
    ],
    "dataprep/writing": [
        {"array_files"},
        {"images"},
        {"channel_images", "sound_clips"},
        {"raw_objects", "sample_encoding"},
        {"raw_captions"},
        {"beton_file", "channel_statistics", "encoder_pool", "encoder_process", "raw_source"},
        {"write_plan"},
        {"manifest"},
        {"writer"},
        {"subset_choice"},
    ],
    "dataprep/sources": [
        {"published"},
        {"own_images", "tar_members"},
        {
            "cifar10_batches",
            "captions",
            "coco_detection",
            "digit_captions",
            "digits",
            "imagenet_tars",
            "inat18",
            "places205",
            "tones",
            "voc07",
        },
        {"class_folders", "file_list", "parquet_table", "segmentation", "tar_shards", "voc_detection"},
        {"anywhere", "audio"},
        {"options"},
        {"sound_options"},
    ],
    "slurm": [
        {"attempts", "calls", "given_place", "job_size"},
        {"cluster", "devcluster", "owner", "scheduler"},
        {"fitness", "orphans", "requeue", "stage_data"},
        {"task"},
        {"given_ranks", "local", "preflight", "srun", "hang_watchdog"},
        {"batch", "executor"},
        {"chain"},
    ],
    "jobs": [
        {"planning"},
        {"reporting", "watching"},
        {"serving"},
        {"options"},
        {"execution"},
        {"board", "embed", "eval_all", "export_encoder", "import_encoder", "pretrain", "report", "search", "status"},
    ],
    "jobs/options": [{"embed", "eval_all", "export_encoder", "import_encoder", "pretrain", "report", "search"}],
    "jobs/execution": [
        {"joined_ranks"},
        {"eval_all", "export_encoder", "import_encoder", "report"},
        {"embed", "pretrain"},
        {"search"},
    ],
    "jobs/planning": [
        {"hints"},
        {"cli", "command_line", "image_facts", "image_sets", "provenance", "recipes", "scaling", "writing_commands"},
        {"auto_recipe", "checks", "eval_options", "run_folder", "subjects", "sweeps"},
        {"ablations", "pieces", "plan", "recipe_help", "starting_point"},
        {"beginning", "job_sizes", "measurement", "sweep_chains"},
    ],
    "jobs/reporting": [
        {"document", "feature_file", "figures", "training_lines"},
        {"measured_run", "page"},
        {"detection_pictures", "pictures", "result_tables"},
        {"retrieval_pictures"},
        {"published_tables", "search_page", "sweep_report", "training_charts"},
        {"html_report"},
    ],
    "jobs/watching": [
        {"followed_files", "job_traces"},
        {"job_states", "wording"},
        {"run_states"},
        {"sweep_table"},
    ],
    "jobs/serving": [{"curves", "overview"}, {"details"}, {"application"}],
    "disk": [{"closed_pipe", "whole_files"}],
}
ONLY_IN = {
    "torch.distributed": {"vicreg/ranks/distributed.py", "vicreg/ranks/rendezvous.py"},
    "submitit": {"slurm"},
    "triton": {
        "vicreg/data/plane_kernels.py",
        "vicreg/optim/lars_kernels.py",
        "vicreg/views/colour_kernels.py",
        "vicreg/views/crop_kernels.py",
    },
    "ffcv": {"dataprep", "benchmarks"},
}
READS_DOCUMENTS = {
    "json.load": set(),
    "json.loads": set(),
    "tomllib": set(),
    "yaml": set(),
    "csv": {"dataprep/sources/captions.py", "dataprep/sources/file_list.py"},
    "xml": {"dataprep/sources/voc_detection.py"},
    "pickle": {"dataprep/sources/cifar10_batches.py", "vicreg/exchange/encoder_file.py"},
    "torch.load": {"vicreg/checkpoint.py", "vicreg/exchange/encoder_file.py", "vicreg/exchange/foreign_formats.py"},
    "safetensors": {"vicreg/exchange/foreign_checkpoints.py", "vicreg/exchange/foreign_formats.py"},
}
"""What takes a foreign file apart, and the only files beside border/ that use it: tests/test_readers.py has them."""
ONLY_BORDER_CALLS = ("Console", "basicConfig", "Formatter", "from_markup", "stdout.write", "stderr.write")
"""Beside print, ends of the calls by which text leaves the suite; any but border/terminal.py would let a name in it
steer a terminal. Benchmarks print figures of their own."""


def _files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _place(path: Path) -> str:
    return str(path.relative_to(ROOT))


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


@pytest.mark.parametrize("path", _files(*PACKAGES), ids=_place)
def test_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = [name for name in _imports(path) if name.split(".")[0] in PACKAGES]
    bad = [name for name in ours if not any(_is_or_under(name, allowed) for allowed in MAY_IMPORT[package])]
    assert not bad, f"{path} imports {bad}"


def _floor(folder: str, room: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS[folder]) if room in rooms]
    assert len(found) == 1, f"{folder}/{room} stands on {len(found)} floors; add it to FLOORS"
    return found[0]


@pytest.mark.parametrize("folder", FLOORS)
def test_rooms_import_only_from_lower_floors(folder: str) -> None:
    package = folder.replace("/", ".")
    for path in _files(folder):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        if parts == ("__init__",):
            continue
        own = _floor(folder, parts[0])
        for name in _imports(path):
            if not name.startswith(package + "."):
                continue
            other = name.removeprefix(package + ".").split(".")[0]
            is_room = (ROOT / folder / other).is_dir() or (ROOT / folder / f"{other}.py").is_file()
            if is_room and other != parts[0]:
                assert _floor(folder, other) < own, f"{path} imports {name}, which is not on a lower floor"


@pytest.mark.parametrize("folder", FLOORS)
def test_every_room_stands_on_a_floor(folder: str) -> None:
    rooms = set().union(*FLOORS[folder])
    on_disk = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
    on_disk |= {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert rooms == on_disk


@pytest.mark.parametrize("package", ONLY_IN)
def test_foreign_packages_stay_in_their_place(package: str) -> None:
    for path in _files(*PACKAGES, "benchmarks"):
        place = _place(path)
        if any(_is_or_under(name, package) for name in _imports(path)):
            allowed = any(place == where or place.startswith(where + "/") for where in ONLY_IN[package])
            assert allowed, f"{place} imports {package}, allowed: {ONLY_IN[package]}"


def test_files_are_moved_into_place_in_one_place_alone() -> None:
    """Whoever renames by himself forgets one day to bring the content, or the folder, to the disk first."""
    for path in _files(*PACKAGES):
        if _place(path) == "disk/whole_files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, of = node.func.attr, node.func.value
            of_module = isinstance(of, ast.Name) and of.id in ("os", "shutil")
            of_dataclasses = isinstance(of, ast.Name) and of.id == "dataclasses"
            moves = of_module and name in ("rename", "renames", "replace", "move", "link")
            # A path's has one argument where a text's has two and that of dataclasses has fields by name.
            moves = moves or name in ("rename", "hardlink_to")
            moves = moves or (name == "replace" and len(node.args) == 1 and not node.keywords and not of_dataclasses)
            assert not moves, f"{_place(path)}, line {node.lineno}, moves a file; use disk/whole_files.py"


@pytest.mark.parametrize("path", [path for path in _files(*PACKAGES) if "border" not in path.parts], ids=_place)
def test_text_and_foreign_files_cross_the_border_in_one_place(path: Path) -> None:
    called = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    bad = [name for name in called if any(f".{name}".endswith(f".{end}") for end in ONLY_BORDER_CALLS)]
    bad += [name for name in called if name == "print"]
    assert not bad, f"{path} calls {bad}; see border/"
    imports = _imports(path)
    assert "rich.markup.escape" not in imports
    read = [name for name in READS_DOCUMENTS for used in [*imports, *called] if _is_or_under(used, name)]
    assert not [name for name in read if _place(path) not in READS_DOCUMENTS[name]], f"{path}: see border/documents.py"


def test_ffcv_is_imported_lazily() -> None:
    for path in _files(*PACKAGES):
        eager = [name for name in _imports(path, top_level_only=True) if _is_or_under(name, "ffcv")]
        assert not eager, f"{path} imports {eager} when it is imported"


def test_no_script_shadows_another_module() -> None:
    taken = set(sys.stdlib_module_names) | (packages_distributions().keys() - set(PACKAGES))
    for folder in ("jobs", "dataprep", "slurm", "border", "benchmarks", "drills"):
        shadows = {path.stem for path in (ROOT / folder).glob("*.py")} & taken
        assert not shadows, f"{folder}/ has {shadows}, which would hide modules of that name from its scripts"


@pytest.mark.parametrize("path", _files(*PACKAGES), ids=_place)
def test_files_are_rooms_not_halls(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it is"
    assert path.stem not in ANYTHING
    assert path.parent.name not in ANYTHING


@pytest.mark.parametrize(
    "door", [path for path in _files(*PACKAGES, "benchmarks", "drills") if path.stem == "__init__"], ids=_place
)
def test_a_folder_says_where_to_begin_reading(door: Path) -> None:
    said = ast.get_docstring(ast.parse(door.read_text())) or ""
    named = [word for word in said.replace("`", " ").split() if (door.parent / word).is_file()]
    assert named, f"{door} names no file to begin with"
    assert not [word for word in said.replace("`", " ").split() if word.endswith(".py") and word not in named]


def _readme_folders() -> list[str]:
    """Folders as the README lists them, in its order."""
    text = (ROOT / "README.md").read_text()
    block = text.split("<!-- folders -->")[1].split("```")[1]
    return [line.split()[0].rstrip("/") for line in block.splitlines()[1:] if line.strip()]


def test_the_readme_shows_the_folders_on_disk() -> None:
    packages = [*PACKAGES, "benchmarks", "drills"]
    on_disk = {_place(path.parent) for path in _files(*packages) if path.stem == "__init__"}
    assert sorted(_readme_folders()) == sorted(on_disk | {"docs", "tests"})


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES
