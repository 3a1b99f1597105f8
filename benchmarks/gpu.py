"""Everything that the suite does on a GPU, measured on one, beside what people use today, in some minutes.

`python benchmarks/gpu.py --all` prints one table with the targets and writes all figures as JSON. It wants PyTorch,
torchvision, numpy and rich; kornia is measured where it is installed. Each part runs in a process of its own. Without
a GPU, or with --small, sizes are tiny: that tries the program out, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import gpu_augmentation, gpu_evaluations, gpu_small_images, gpu_step, lars, loss
from benchmarks.gpu_step import FORMS, Sizes
from benchmarks.ratios import Ratio, print_ratios

OFFICIAL = "official, eager fp16"
FASTEST = "ours, compiled, both views at once"
Found = dict[str, Any]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _step(sizes: Sizes, console: Console, found: Found) -> Found:
    """Each form at one of the sizes at least: a compilation takes a minute or two, and all shall be done in ten."""
    rows: list[dict[str, Any]] = []
    for number, batch in enumerate(sizes.batches):
        forms = tuple(name for name in FORMS if name != FASTEST) if number == 0 else ("ours, eager", FASTEST)
        rows += gpu_step.measure_steps(sizes, batch, _device(), forms)
    table = Table("training step", title=f"{sizes.encoder}, {sizes.expander}, {sizes.image_px} px")
    for heading in ("images", "ms", "images/s", "times", "outside", "MFU", "GB"):
        table.add_column(heading, justify="right", no_wrap=True)
    ratios, official = [], {row["images"]: row.get("images_s") for row in rows if row["name"] == OFFICIAL}
    for row in rows:
        if "failed" in row:
            table.add_row(row["name"], str(row["images"]), "[red]failed[/]")
            continue
        row["times_official"] = row["images_s"] / official[row["images"]] if official[row["images"]] else float("nan")
        table.add_row(
            row["name"],
            str(row["images"]),
            f"{1000 * row['seconds']:,.1f}",
            f"{row['images_s']:,.0f}",
            f"{row['times_official']:.2f}",
            f"{row['outside_model']:.0%}" if "outside_model" in row else "",
            f"{row['mfu']:.0%}" if "mfu" in row else "",
            f"{row['peak_gb']:.1f}" if "peak_gb" in row else "",
        )
    console.print(table)
    console.print("times: the official images/s; outside: share of the step outside encoder and expander", style="dim")
    for batch in sizes.batches:
        measured = [row for row in rows if row["images"] == batch and "times_official" in row and row["name"] in FORMS]
        if measured:
            best = max(measured, key=lambda row: float(row["images_s"]))
            what = f"step of {batch} images ({best['name']})"
            ratios += [
                Ratio(f"{what} / official eager fp16, images per second", best["times_official"], 2.0),
                Ratio(f"{what}: share outside encoder and expander", best["outside_model"], 0.12, at_least=False),
            ]
            found["best"] = {"name": best["name"], "images": batch, "seconds": best["seconds"]}
    return {"rows": rows, "ratios": ratios, "best": found.get("best")}


def _augmentation(sizes: Sizes, console: Console, found: Found) -> Found:
    batch = sizes.batches[-1]
    rows = gpu_augmentation.measure(sizes, batch, _device())
    table = Table(
        "both views", "ms", "times ours", title=f"{batch} photos of {sizes.photo_px} px to {sizes.image_px} px"
    )
    mine = rows[0].get("seconds")
    for row in rows:
        said = row.get("missing") or (f"[red]failed: {row['failed']}" if "failed" in row else "")
        if not said:
            said = f"{1000 * row['seconds']:,.1f}"
        table.add_row(row["name"], said, f"{row['seconds'] / mine:,.1f}" if mine and "seconds" in row else "")
    console.print(table)
    largest, mean = gpu_augmentation.difference_from_cpu(sizes, _device())
    console.print(f"ours on this device and on the CPU differ by at most {largest:.2f} of 255, {mean:.4f} on average")
    ratios = [
        Ratio("augmented views on the device and on the CPU, mean difference in 255ths", mean, 0.25, at_least=False)
    ]
    best = found.get("step", {}).get("best")
    if mine and best and best["images"] == batch:
        share = mine / best["seconds"]
        ratios.append(Ratio(f"both views of {batch} images / the fastest step", share, 0.08, at_least=False))
    return {"rows": rows, "largest_difference": largest, "mean_difference": mean, "ratios": ratios}


def _loss(sizes: Sizes, console: Console, _: Found) -> Found:
    options = loss.Loss(rows=sizes.loss_rows, dims=sizes.loss_dims, rounds=sizes.rounds, ranks=())
    (speed, memory) = loss.compare(options, _device(), console)
    return {"ratios": [Ratio(speed.what, speed.measured, 4.0), memory]}


def _lars(sizes: Sizes, console: Console, _: Found) -> Found:
    official, copy = lars.ratios(lars.Step(sizes.encoder, sizes.expander, sizes.rounds), console)
    return {
        "ratios": [Ratio(official.what, official.measured, 3.0), Ratio(copy.what, copy.measured, 1.6, at_least=False)]
    }


def _feeding(sizes: Sizes, console: Console, found: Found) -> Found:
    best = found.get("step", {}).get("best") or {"name": "ours, eager"}
    batch = sizes.batches[-1]
    seconds = gpu_step.measure_feeding(sizes, batch, _device(), best["name"])
    table = Table("a step whose", "ms", title=f"{batch} images, {best['name']}")
    for name, key in (
        ("photos come from host memory", "from_host_s"),
        ("photos are on the device", "on_device_s"),
        ("views are ready", "views_ready_s"),
    ):
        table.add_row(name, f"{1000 * seconds[key]:,.1f}")
    console.print(table)
    speed = seconds["on_device_s"] / seconds["from_host_s"]
    return seconds | {
        "ratios": [Ratio("photos from host memory / photos on the device, steps per second", speed, 0.95)]
    }


def _determinism(sizes: Sizes, console: Console, _: Found) -> Found:
    found = gpu_step.measure_determinism(sizes, sizes.batches[0], _device())
    cost = found["deterministic_s"] / found["fastest_s"]
    console.print(f"the deterministic flag makes an eager step {cost:.2f} times as long", highlight=False)
    return found | {"ratios": [Ratio("deterministic: a resumed run has the same bits", found["same_bits"], 1.0)]}


def _evaluation(sizes: Sizes, console: Console, _: Found) -> Found:
    found = gpu_evaluations.measure_linear(sizes, sizes.evaluated, _device())
    table = Table("linear evaluation", "images/s", title=f"{sizes.encoder}, {sizes.image_px} px")
    for name, key in (
        ("in float32, as published", "float32_images_s"),
        ("in half precision", "half_images_s"),
        ("decoding and crops alone", "decoded_images_s"),
        ("the encoder alone, half precision", "half_forward_images_s"),
        ("the encoder alone, float32", "float32_forward_images_s"),
    ):
        table.add_row(name, f"{found[key]:,.0f}")
    console.print(table)
    speed, limit = found["half_images_s"], min(found["decoded_images_s"], found["half_forward_images_s"])
    return found | {
        "ratios": [
            Ratio(
                "linear evaluation: half precision / float32, images per second", speed / found["float32_images_s"], 3
            ),
            Ratio("linear evaluation / the lesser of decoding and encoder alone", speed / limit, 0.9),
        ]
    }


def _online(sizes: Sizes, console: Console, _: Found) -> Found:
    found = gpu_evaluations.measure_online(*sizes.looked_at, sizes.small_encoder, _device())
    said = ", ".join(f"{name.removesuffix('_s').replace('_', ' ')} {seconds:.2f} s" for name, seconds in found.items())
    console.print(f"looking at {' + '.join(map(str, sizes.looked_at))} small images: {said}", highlight=False)
    return found | {
        "ratios": [Ratio("a later look at the representation, seconds", found["later_s"], 2, at_least=False)]
    }


def _start(sizes: Sizes, console: Console, _: Found) -> Found:
    found = gpu_evaluations.measure_start(sizes.small_encoder, sizes.batches[0])
    cold, warm = found["cold_s"], found["warm_s"]
    console.print(f"first compiled step {cold:.1f} s after the start, {warm:.1f} s with compiled code kept")
    return found | {"ratios": [Ratio("start to first compiled step, code kept, seconds", warm, 15, False)]}


def _trial(sizes: Sizes, console: Console, _: Found) -> Found:
    step_ms = gpu_evaluations.measure_forms(sizes.small_encoder, sizes.batches[0], _device())
    console.print(", ".join(f"{name} {ms:,.1f} ms" for name, ms in step_ms.items()), highlight=False)
    gain = min(step_ms.values()) / step_ms["eager"]
    return {"step_ms": step_ms, "ratios": [Ratio("trial: the fastest form / eager, ms of a step", gain, 1, False)]}


def _small(sizes: Sizes, console: Console, _: Found) -> Found:
    rows = gpu_small_images.measure(sizes, _device())
    title = f"recipe cifar10, {sizes.small_encoder}, {sizes.small_batch} images"
    table = Table("step", "ms", "host ms", "s an epoch", "images/s", title=title)
    for row in rows:
        said = [f"{1000 * row[name]:,.2f}" for name in ("seconds", "host_seconds")] if "seconds" in row else []
        said += [f"{row['epoch_seconds']:,.2f}", f"{row['images_s']:,.0f}"] if said else ["[red]failed[/]"]
        table.add_row(row["name"], *said)
    console.print(table)
    console.print("host: how long it is busy with a step; an epoch: of 50,000 images", style="dim")
    ratios = [
        Ratio(
            "small images: a recorded run has the bits of one drawn by the host",
            float(gpu_small_images.same_bits(sizes, _device())),
            1.0,
        )
    ]
    recorded = [row for row in rows if row["name"].startswith(gpu_small_images.RECORDED) and "seconds" in row]
    if recorded:
        best = min(recorded, key=lambda row: float(row["seconds"]))
        what = f"small images ({best['name']})"
        ratios += [
            Ratio(f"{what}: seconds an epoch of 50,000", best["epoch_seconds"], 1.5, at_least=False),
            Ratio(f"{what}: host ms a step", 1000 * best["host_seconds"], 1.0, at_least=False),
        ]
    return {"rows": rows, "ratios": ratios}


PARTS: dict[str, Callable[[Sizes, Console, Found], Found]] = {
    "step": _step,
    "small": _small,
    "augmentation": _augmentation,
    "loss": _loss,
    "lars": _lars,
    "feeding": _feeding,
    "determinism": _determinism,
    "evaluation": _evaluation,
    "online": _online,
    "start": _start,
    "trial": _trial,
}


def measure(name: str, sizes: Sizes, found: Found) -> Found:
    """One part, its table printed."""
    console = Console()
    console.rule(f"[bold]{name}")
    return PARTS[name](sizes, console, found)


def run(names: list[str], sizes: Sizes) -> Found:
    """All parts, each in a process of its own; one that fails says so under "failed"."""
    found: Found = {}
    for name in names:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                found[name] = process.submit(measure, name, sizes, found).result()
            except Exception as error:  # the others are measured all the same, and the command fails in the end
                found[name] = {"failed": f"{type(error).__name__}: {error}", "ratios": []}
                print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
    return found


def failures(found: Found) -> list[str]:
    """What did not run."""
    parts = [f"{name}: {part['failed']}" for name, part in found.items() if "failed" in part]
    rows = [
        f"{row['name']}: {row['failed']}" for part in found.values() for row in part.get("rows", []) if "failed" in row
    ]
    return parts + rows


def main(arguments: list[str]) -> int:
    """Measure, print, write; returns the exit code, 1 where something did not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="measure everything")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the program out")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="where the figures go (default: gpu.json)")
    options = parser.parse_args(arguments)
    if not options.all and not options.only:
        parser.error("say what to measure: --all, or --only PART ...")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # of the deterministic part, before CUDA starts
    small = options.small or not torch.cuda.is_available()
    console = Console()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if small:
        console.print(f"[bold]tiny sizes on {device}: this tries the program out, its figures mean nothing")
    found = run(options.only or list(PARTS), gpu_step.SMALL if small else Sizes())
    ratios = [ratio for part in found.values() for ratio in part["ratios"]]
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, {device}"
    console.rule("[bold]all ratios")
    if small:
        console.print(f"{len(ratios)} ratios of tiny sizes, not shown")
    else:
        print_ratios(ratios, console, versions)
    failed = failures(found)
    content = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "on": versions,
        "cuda": torch.version.cuda,
        "small": small,
        "failed": failed,
        "parts": {name: part | {"ratios": [asdict(ratio) for ratio in part["ratios"]]} for name, part in found.items()},
    }
    beside = options.json.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(options.json)
    console.print(f"all figures: {options.json}", highlight=False)
    for said in failed:
        console.print(f"[bold red]did not run[/] {said}", highlight=False)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
