"""Data that are damaged: it is refused, named or trained on whole; nothing hangs, and no signal ends a process."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from dataprep.beton import verification
from dataprep.beton.contract import Beton, BetonError, open_beton
from dataprep.beton.manifest import manifest_path, manifest_samples, read_manifest
from dataprep.sources.digits import open_split
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from drills import archives
from drills.digits_runs import DigitsRuns, await_step, ended, finish, kill_session, numbers, start
from drills.faults import flip_bit, flipped_bit, refusal
from drills.jpeg_damage import HOPELESS, PHOTOS, WAYS
from drills.tally import Drill
from slurm import attempts
from slurm.chain import job_folder
from vicreg.config import DataConfig, official_views
from vicreg.data.loaders import centre_batches, open_views

FLIPS = 200
"""Bits that are flipped in a try, one at a time."""
JPEGS_OF_A_KIND = 4
FLIPPED_SAMPLES = 20
HANGING_S = 90.0
NEVER = -1
BETONS = ("jpg", "raw", "label vectors")


def drills(runs: DigitsRuns) -> Sequence[Drill]:
    """All of this family."""

    def with_runs(what: Callable[[DigitsRuns, int, Path], None]) -> Callable[[int, Path], None]:
        return lambda number, folder: what(runs, number, folder)

    return [
        Drill(f"{len(WAYS) * JPEGS_OF_A_KIND} damaged JPEGs", _write_damaged_jpegs, 3),
        Drill(f"{FLIPS} bits in labels and tables", _flip_tables, len(BETONS)),
        Drill(f"{FLIPPED_SAMPLES} bits in images", _flip_images, 2),
        Drill("training on images with flipped bits", with_runs(_train_on_flipped), 2),
        *archives.drills(),
        Drill("a beton that shrinks under verify", _shrink_under_verify),
        Drill("a beton that shrinks under training", with_runs(_shrink_under_training)),
    ]


def _write_damaged_jpegs(number: int, folder: Path) -> None:
    """Each is rejected or decodes to its stated size, by the command, its check and training's loader."""
    draw = random.Random(number)
    for way, damage in WAYS.items():
        for which in range(JPEGS_OF_A_KIND):
            place = folder / "raw" / "train" / f"class{which % 2}"
            place.mkdir(parents=True, exist_ok=True)
            photo = draw.choice(list(PHOTOS.values()))
            (place / f"{way.replace(' ', '-')}_{which}.jpg").write_bytes(damage(photo, draw))
    words = ["folder", "--root", str(folder / "raw"), "--out", str(folder), "--split", "train", "--num-workers", "1"]
    code, said = ended([sys.executable, "dataprep/write_ffcv.py", *words], HANGING_S)
    assert code == 0, f"exit code {code}: {said[-2000:]}"
    assert "Traceback" not in said, said[-2000:]
    beton = open_beton(folder / "train.beton")
    rejected, kept = read_manifest(beton.path)["rejected"], [name for name, _ in manifest_samples(beton.path)]
    assert beton.num_samples + len(rejected) == len(WAYS) * JPEGS_OF_A_KIND, "not each is written or rejected"
    hopeless = [name for name in kept if any(f"/{way.replace(' ', '-')}_" in name for way in HOPELESS)]
    assert not hopeless, f"written, although a part is missing: {', '.join(hopeless)}"
    found = [problem.text for problem in verification.problems(beton.path, decode=True)]
    assert not found, f"verify finds in what was just written: {found[:3]}"
    finish(_command("read", beton.path, NEVER, "shuffled"))


def _flip_tables(number: int, folder: Path) -> None:
    """`open_beton` refuses each."""
    beton = _write(folder, BETONS[number % len(BETONS)])
    places, draw = _places_of_tables(beton), random.Random(number)
    for _ in range(FLIPS):
        place, bit = draw.choice(places), draw.randrange(8)
        with flipped_bit(beton.path, place, bit):
            said = refusal(lambda: open_beton(beton.path), (BetonError,))
        assert said, f"bit {bit} of byte {place} of {beton.path.name} was flipped, and it was opened"
        assert str(beton.path) in said, said
        assert "\n" not in said, said
    open_beton(beton.path)


def _flip_images(number: int, folder: Path) -> None:
    """`verify` names each, and no other."""
    beton = _write(folder, BETONS[number % 2])
    hit = _flip_samples(beton, random.Random(number), FLIPPED_SAMPLES)
    found = [problem.text for problem in verification.problems(beton.path) if "bytes have changed" in problem.text]
    assert {int(text.split()[1]) for text in found} == hit, f"verify names {found}, right are {sorted(hit)}"


def _train_on_flipped(runs: DigitsRuns, number: int, folder: Path) -> None:
    """Half of the samples are damaged: training ends with one line, or goes on with whole ones and counts them."""
    beton = _write(folder, BETONS[number % 2], "train")
    _flip_samples(beton, random.Random(number), beton.num_samples // 2)
    skips, run = number % 2, folder / "run"
    more = ["--data.train", str(beton.path), "--data.loader", "beton", "--train.epochs", "1", "--gpus", "1"]
    code, said = ended(runs.command(run, *more, "--data.on-bad", "skip" if skips else "fail"))
    assert "Traceback" not in said, said[-2000:]
    if skips:
        assert code == 0, f"exit code {code}: {said[-2000:]}"
        assert numbers(run)[-1]["stand_ins"] > 0, "no damaged sample was met"
    else:
        assert code == 1, f"exit code {code}, although half of the samples are damaged"
        assert f"{beton.path}: sample " in said, said[-2000:]


def _shrink_under_verify(number: int, folder: Path) -> None:
    for kind in BETONS[:2]:
        path = _write(folder, kind).path
        draw = random.Random(number)
        code, said = ended(_command("verify", path, draw.randrange(300)), HANGING_S)
        assert code == 1, f"exit code {code}: {said[-2000:]}"
        assert "cut off while it was open" in said, said[-2000:]


def _shrink_under_training(runs: DigitsRuns, number: int, folder: Path) -> None:
    """With views that are shuffled, in blocks, and in a whole run."""
    path = _write(folder, BETONS[number % 2], "train").path
    for order in ("shuffled", "blocks"):
        other = folder / order / path.name
        other.parent.mkdir()
        for part in (path, manifest_path(path)):
            shutil.copy(part, other.parent)
        code, said = ended(_command("read", other, 2, order), HANGING_S)
        assert code == 1, f"exit code {code}: {said[-2000:]}"
        assert "cut off while it was open" in said, said[-2000:]
    run = folder / "run"
    process = start(runs.command(run, "--data.train", str(path), "--data.loader", "beton", "--train.epochs", "40"))
    try:
        await_step(run, 3, process)
        os.truncate(path, 4096)
        assert process.wait(timeout=HANGING_S) == 1, f"exit code {process.returncode}"
    finally:
        kill_session(process)
    (attempt,) = attempts.read(job_folder(run, "pretrain"))
    assert "cut off while it was open" in attempt.reason, attempt.reason
    logs = "".join(log.read_text() for log in run.glob("jobs/pretrain/rank_*.log"))
    assert "Traceback" not in logs, logs[-2000:]


def _write(folder: Path, kind: str, split: str = "val") -> Beton:
    """The digits as a beton."""
    path = folder / kind.replace(" ", "-") / f"{split}.beton"
    source = open_split(split, multi_label=kind == "label vectors")
    write_beton(source, path, WritePlan("jpg" if kind == "jpg" else "raw"), num_workers=0)
    return open_beton(path)


def _places_of_tables(beton: Beton) -> list[int]:
    """Bytes of header, descriptors, metadata, allocation table and label vectors: whatever is no image."""
    head = range(read_manifest(beton.path)["head_bytes"])
    places = [*head, *range(beton.table_start, beton.file.size)]
    if beton.labels.ndim == 2:
        vectors = beton.path.read_bytes().index(beton.labels.tobytes(), int(beton.pointers[-1]))
        places += range(vectors, vectors + beton.labels.nbytes)
    return places


def _flip_samples(beton: Beton, draw: random.Random, num: int) -> set[int]:
    """Flip one bit in each of some images."""
    hit = set(draw.sample(range(beton.num_samples), num))
    for sample in hit:
        flip_bit(beton.path, int(beton.pointers[sample]) + draw.randrange(int(beton.sizes[sample])), draw.randrange(8))
    return hit


def _command(name: str, beton: Path, *more: object) -> list[str]:
    return [sys.executable, "-m", "drills.data", name, str(beton), *map(str, more)]


def _verify(path: Path, shrinks_at: int) -> None:
    def report(done: int, _: int) -> None:
        if done == shrinks_at:
            os.truncate(path, 4096)

    if found := list(verification.problems(path, report=report)):
        sys.exit("\n".join(problem.text for problem in found))


def _read(path: Path, shrinks_after: int, order: str) -> None:
    """An epoch of views, and each image as evaluations see it; in the midst of it the beton may be cut."""
    config = DataConfig(image_size=16, eval_resize=16, order=order, block_samples=2)  # type: ignore[arg-type]
    beton = open_beton(path)
    size, device = min(16, beton.num_samples), torch.device("cpu")
    loader = open_views(
        *(config, path, official_views()), seed=0, global_batch=size, rank=0, world_size=1, device=device, workers=2
    )
    try:
        for number, _ in enumerate(loader.batches(0)):
            if number == shrinks_after:
                os.truncate(path, 4096)
        seen = list[int]()
        for *_, samples in centre_batches(config, path, range(beton.num_samples), batch_size=16, workers=2):
            seen += samples.tolist()
    except BetonError as error:
        sys.exit(str(error))
    assert seen == list(range(beton.num_samples))


if __name__ == "__main__":
    if sys.argv[1] == "verify":
        _verify(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        _read(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
