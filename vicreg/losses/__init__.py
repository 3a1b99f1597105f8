"""Losses of the global batch, exact in value and gradient on any number of ranks.

They stand apart from the methods because several share them and tests hold them to golden numbers alone; a loss of a
few lines stays in its method's file. Begin with `vicreg.py`; `forms.py` is about what each form costs.
"""
