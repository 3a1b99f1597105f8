"""The ground that all packages stand on: what leaves a process, for a disk whole or not at all, for a pipe quietly.

Begin with `whole_files.py`.
"""
