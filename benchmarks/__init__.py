"""Side-by-side measurements: each prints ratios against an alternative of the same run.

They stand apart from the tests, which judge and take no times. Begin with `all.py`.
"""
