"""Programs that break the suite on purpose and look whether anything is lost; what they find is in docs/reliability.md.

They stand apart from the tests, which have a right answer for each part: a drill breaks a whole run, often, and at
moments that nobody chose. Begin with `all.py`.
"""
