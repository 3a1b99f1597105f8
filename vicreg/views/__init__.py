"""What a view of an image is: which samples come when, where they are cut and how they are coloured.

Everything is a function of (seed, epoch, sample, view), drawn in `view_parameters.py` (begin there) from
`keyed_random.py`, and carried out on pixels by `resample.py` and `augment.py`, on any device.
"""
