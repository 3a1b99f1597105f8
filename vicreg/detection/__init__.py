"""Detecting objects with a learned encoder: data, models, measures; evals/detection.py trains with them.

Begin with detector.py; settings.py has every number, and where it comes from.
"""
