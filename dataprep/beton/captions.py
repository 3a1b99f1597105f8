"""The captions of an image as a beton holds them: a count, so many lengths in bytes, then their UTF-8, in one field.

The field is FFCV's BytesField, beside those of objects.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CAPTIONS = "captions"
"""Name of the field."""
_COUNT = np.dtype("<u4")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class BadCaptions(ValueError):
    """The bytes of a field are not what `encode_captions` writes."""


def encode_captions(captions: Sequence[str]) -> bytes:
    """Captions as the bytes of a field."""
    texts = [caption.encode() for caption in captions]
    return np.array([len(texts), *map(len, texts)], _COUNT).tobytes() + b"".join(texts)


def decode_captions(stored: NDArray[np.uint8]) -> list[str]:
    """The way back from `encode_captions`, at least one; BadCaptions where the bytes are none."""
    content = stored.tobytes()
    count = int(stored[: _COUNT.itemsize].view(_COUNT)[0]) if len(content) >= _COUNT.itemsize else 0
    start = (1 + count) * _COUNT.itemsize
    if not count or len(content) < start:
        raise BadCaptions(f"{len(content):,} bytes for {count:,} captions")
    ends = start + np.cumsum(np.frombuffer(content, _COUNT, count, _COUNT.itemsize).astype(np.int64))
    if int(ends[-1]) != len(content):
        raise BadCaptions(f"captions of {int(ends[-1]) - start:,} bytes, there are {len(content) - start:,}")
    try:
        starts = [start, *ends[:-1].tolist()]
        return [content[first:end].decode() for first, end in zip(starts, ends.tolist(), strict=True)]
    except UnicodeDecodeError as error:
        raise BadCaptions(f"a caption is not UTF-8 ({error.reason})") from error


def words(caption: str) -> list[str]:
    """The words of a caption in small letters: runs of letters and digits, with apostrophes inside.

    >>> words("A dog's ball, 2 cats.")
    ['a', "dog's", 'ball', '2', 'cats']
    """
    return _WORD.findall(unicodedata.normalize("NFC", caption).lower().replace("’", "'"))
