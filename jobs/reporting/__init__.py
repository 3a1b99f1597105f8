"""What lies in run folders as tables, curves and pictures, for the terminal, Markdown and one HTML page.

It reads complete files and starts nothing, so a report can be made at any time. Begin with `measured_run.py`, which
reads; `html_report.py` says what stands where.
"""
