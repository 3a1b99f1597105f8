"""The core: it learns from betons and measures what was learned; nothing here knows of SLURM or of commands.

At the door: `config.py` (all that one run is told), `method.py` (the seam: what a method must be), `model.py` (encoder
and expander), `checkpoint.py` (a complete state on disk), `trained.py` (a finished run in Python: `vicreg.load`). Begin
with `training/train.py`, the loop that ties the wings together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `import vicreg` takes no time, and no torch
    import os

    import torch

    from vicreg.trained import TrainedModel


def load(run: str | os.PathLike[str], encoder: str = "", device: str | torch.device = "") -> TrainedModel:
    """The encoder of a finished or imported run, with its transform and configuration: `model.embed(paths)`.

    encoder: which, where the run has several (b: the second branch's). device: empty for the GPU where there is one.
    ValueError with the cure where there is no such run, or it is not finished.
    """
    from vicreg.trained import load

    return load(run, encoder, device)
