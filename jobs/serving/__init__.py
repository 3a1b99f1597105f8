"""The board: what lies in run folders as a page that lives, for this machine's browser alone.

It reads and changes nothing. Begin with `application.py`, which answers; `overview.py` says what is known of all runs.
"""
