"""The captions of an image as a beton holds them: a count, so many lengths in bytes, then their UTF-8, in one field.

The field is FFCV's BytesField, beside those of objects.py.
"""

from __future__ import annotations

import itertools
import re
import struct
import unicodedata
from collections.abc import Sequence

CAPTIONS = "captions"
"""Name of the field."""
_NUMBER = struct.Struct("<I")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class BadCaptions(ValueError):
    """The bytes of a field are not what `encode_captions` writes."""


def encode_captions(captions: Sequence[str]) -> bytes:
    """Captions as the bytes of a field."""
    texts = [caption.encode() for caption in captions]
    return b"".join([*map(_NUMBER.pack, [len(texts), *map(len, texts)]), *texts])


def caption_ranges(content: bytes) -> list[slice]:
    """Where each caption of a field lies in its bytes, at least one; BadCaptions where they are no captions."""
    count = _NUMBER.unpack_from(content)[0] if len(content) >= _NUMBER.size else 0
    start = (1 + count) * _NUMBER.size
    if not count or len(content) < start:
        raise BadCaptions(f"{len(content):,} bytes for {count:,} captions")
    sizes = struct.unpack_from(f"<{count}I", content, _NUMBER.size)
    bounds = list(itertools.accumulate(sizes, initial=start))
    if bounds[-1] != len(content):
        raise BadCaptions(f"captions of {bounds[-1] - start:,} bytes, there are {len(content) - start:,}")
    return [slice(first, end) for first, end in itertools.pairwise(bounds)]


def decode_caption(content: bytes, place: slice) -> str:
    """One caption of a field, `place` from `caption_ranges`; BadCaptions where it is not UTF-8."""
    try:
        return content[place].decode()
    except UnicodeDecodeError as error:
        raise BadCaptions(f"a caption is not UTF-8 ({error.reason})") from error


def decode_captions(content: bytes) -> list[str]:
    """The way back from `encode_captions`, at least one; BadCaptions where the bytes are none."""
    return [decode_caption(content, place) for place in caption_ranges(content)]


def words(caption: str) -> list[str]:
    """The words of a caption in small letters: runs of letters and digits, with apostrophes inside.

    >>> words("A dog's ball, 2 cats.")
    ['a', "dog's", 'ball', '2', 'cats']
    """
    return _WORD.findall(unicodedata.normalize("NFC", caption).lower().replace("’", "'"))
