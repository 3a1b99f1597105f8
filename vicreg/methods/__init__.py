"""One file per method, found by its name: `vicreg.py` is the example to read."""
