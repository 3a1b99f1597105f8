"""Side-by-side measurements: each prints ratios against an alternative of the same run. Begin with `all.py`."""
