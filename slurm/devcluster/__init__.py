"""A real SLURM cluster on one machine, for trying and for tests.

Begin with `up.py`.
"""
