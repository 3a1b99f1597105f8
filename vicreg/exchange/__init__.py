"""Encoders in files of their own: ours, and those of others, in and out.

Begin with `encoder_file.py`. Nothing that is read here may run code.
"""
