"""The commands that users type, one file each; the wings are what they share.

Begin with `pretrain.py`.
"""
