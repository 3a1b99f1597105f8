"""Raw data sets to betons, FFCV's format: `write_ffcv.py` is the command, the wings are what it consists of.

It stands apart from the core, which reads betons and never raw data, and needs no torch.
"""
