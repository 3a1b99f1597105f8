"""One file per kind of evaluation, found by its name, with `evaluate(encoder, splits, config)`.

What it is told, a frozen `Config`, stands in the file of that name in `settings/`.

Begin with `knn.py`, the shortest, and `features.py`, on which most stand. They know encoders, not how these learned.
"""
