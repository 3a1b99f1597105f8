"""One file per raw data set: which images it has, where they are, which labels.

They stand apart from the writing, which takes any list of samples, so that a new data set is a new file. Begin with
`class_folders.py`; `options.py` says what the command line can tell each of them.
"""
