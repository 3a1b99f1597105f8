"""The ground that all packages stand on: what is written to a disk is there whole or not at all.

`whole_files.py` is all of it.
"""
