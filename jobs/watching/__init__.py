"""Where jobs are, from what SLURM says and what they leave in their folders; nothing here changes them.

Begin with `job_states.py`.
"""
