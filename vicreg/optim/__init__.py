"""Optimizers and learning rates, which know groups of parameters and not what these belong to.

Begin with `lars.py`: torch has none. `optimizers.py` builds what a configuration names; `schedule.py` is a pure
function of the step.
"""
