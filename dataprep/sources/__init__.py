"""One file per raw data set: which images it has, where they are, which labels.

Begin with `class_folders.py`; `options.py` says what the command line can tell each of them.
"""
