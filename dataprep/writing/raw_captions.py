"""What is said of a raw image, and what of it goes into a beton.

Stands apart from `beton/captions.py`, which knows the stored form: here is what a caption may be wrong in.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataprep.beton.captions import encode_captions, words
from dataprep.writing.raw_objects import StoredObjects


@dataclass(frozen=True)
class RawCaptions:
    """The captions of an image that can be used, and why others cannot."""

    captions: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def usable_captions(texts: list[str]) -> RawCaptions:
    """Captions with single spaces; what has no word, or bytes that are no UTF-8 (surrogates here), is left out."""
    kept, left_out = [], []
    for text in texts:
        caption = " ".join(text.split())
        shown = caption[:60].encode("ascii", "backslashreplace").decode()
        if any("\ud800" <= letter <= "\udfff" for letter in caption):
            left_out.append(f"a caption is not UTF-8 ({shown})")
        elif not words(caption):
            left_out.append(f"a caption has no word ({shown!r})")
        else:
            kept.append(caption)
    return RawCaptions(tuple(kept), tuple(left_out))


def store_captions(raw: RawCaptions) -> StoredObjects | str:
    """What is stored of the captions of an image; why it cannot be where there is none."""
    if not raw.captions:
        return "; ".join(("it has no caption", *raw.left_out))
    return StoredObjects((encode_captions(raw.captions),), None, left_out=raw.left_out, captions=raw.captions)
