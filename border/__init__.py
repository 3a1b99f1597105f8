"""Where the suite meets what it did not write: texts to show, files to read, folders where others may write.

Begin with `text.py`. All packages may use it; it knows none of them.
"""

VERSION = "0.1.0"
"""Of the suite, and the only place where it is said."""
