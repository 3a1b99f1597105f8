"""From a list of samples to a file that appears whole or not at all.

Begin with `writer.py`; `raw_source.py` is what it is given, `images.py` what becomes of one image.
"""
