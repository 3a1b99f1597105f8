"""From a list of samples to a file that appears whole or not at all.

It stands apart from the raw data sets, of which it knows none, and from readers, who need none of it. Begin with
`writer.py`; `raw_source.py` is what it is given, `images.py` what becomes of one image.
"""
