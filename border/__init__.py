"""Where the suite meets what it did not write: texts to show, files to read, folders where others may write.

Begin with `text.py`. All packages may use it; it knows none of them.
"""
