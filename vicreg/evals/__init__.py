"""One file per kind of evaluation, found by its name, with a frozen `Config` and `evaluate(encoder, splits, config)`.

Begin with `knn.py`, the shortest, and `features.py`, on which most stand. They know encoders, not how these learned.
"""
