"""A real SLURM cluster on one machine, for trying and for tests; nothing that a user's cluster needs.

Begin with `up.py`.
"""
