"""The loop, one step of it, and what keeps a long run from being lost.

Begin with `train.py`, then `learner.py`. Only here do method, data, optimizer and ranks come together.
"""
