"""Where jobs are, from what SLURM says and what they leave in their folders.

Begin with `job_states.py`.
"""
