"""What a command will do, before it does it: options, recipes, sizes and checks, pieces of work.

Begin with `recipes.py` for what can be asked for, `plan.py` for what is checked.
"""
