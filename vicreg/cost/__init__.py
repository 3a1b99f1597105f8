"""What a run will take, before it runs: memory, traffic, arithmetic, seconds.

Begin with `estimate.py`. Nothing here needs the memory or the GPU that it speaks of.
"""
