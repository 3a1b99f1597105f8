"""What a command will do, before it does it: options, recipes, sizes and checks, pieces of work.

It stands apart from the commands because several share it, and jobs find the same plan on their nodes. Begin with
`recipes.py` for what can be asked for, `plan.py` for what is checked.
"""
