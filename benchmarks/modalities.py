"""Learning from two modalities, beside the alternatives: photos with captions, and sound.

`python benchmarks/modalities.py captions PHOTOS` has VICReg, Barlow Twins and VSE++ beside a plain program
(`captions.py`), `python benchmarks/modalities.py sound RECORDINGS` a waveform beside a spectrogram (`sound.py`).
With --out DIR what has ended stays, and the same command goes on behind it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from rich.console import Console

from benchmarks import captions, sound
from benchmarks.ratios import print_ratios


def main(arguments: list[str]) -> int:
    """Run one of both, print its tables; returns the exit code."""
    parts: dict[str, Callable[..., Any]] = {"captions": captions.Captions, "sound": sound.Sound}
    options = tyro.extras.subcommand_cli_from_dict(parts, args=arguments, description=__doc__)
    console, start_s = Console(), time.monotonic()
    try:
        measure = captions.ratios if isinstance(options, captions.Captions) else sound.ratios
        print_ratios(measure(options, console), console)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(f"{(time.monotonic() - start_s) / 60:.1f} minutes in all")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
