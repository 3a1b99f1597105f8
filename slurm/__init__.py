"""Placing work: on a SLURM cluster or on this machine; it knows no training.

Begin with `batch.py`, the supervisor of a job's ranks, and `chain.py`, jobs after jobs. A job is a dotted function name
with JSON-able arguments: `task.py`.
"""
