"""Where pixels come from: betons decoded by threads, or an array on the device, as batches of views.

Begin with `loaders.py`, which opens them. It stands apart from the wing of views, which needs no file and no thread.
"""
