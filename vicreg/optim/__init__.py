"""Optimizers and the learning rate.

Begin with `lars.py`: torch has none. `schedule.py` is a pure function of the step.
"""
