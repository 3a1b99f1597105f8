"""Losses of the global batch, exact in value and gradient on any number of ranks.

Begin with `vicreg.py`. A loss is here, and not in its method's file, when it is more than a few lines.
"""
