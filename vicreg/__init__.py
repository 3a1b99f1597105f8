"""The core: it learns from betons and measures what was learned; nothing here knows of SLURM or of commands.

At the door: `config.py` (all that one run is told), `method.py` (the seam: what a method must be), `model.py` (encoder
and expander), `checkpoint.py` (a complete state on disk). Begin with `training/train.py`, the loop
that ties the wings together.
"""
