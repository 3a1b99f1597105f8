"""Detecting objects with a learned encoder: scenes, models and measures, which an evaluation trains with.

Begin with detector.py; settings.py has every number, and where it comes from.
"""
