"""What each evaluation is told, in a file of its name; read without torch, so that what is wrong is said at once.

Begin with `knn.py`; how it measures stands in the file of that name one folder up.
"""
