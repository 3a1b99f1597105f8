"""What a branch takes, told by the name of its encoder: images, unless the name is one of those here.

Sizes stand in the name, as in resnet50: gru-300-1024 is a word embedding of 300 and a GRU of 1024 (text_encoder.py).
"""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["image", "text"]
TEXT_ENCODER = re.compile(r"gru-([1-9]\d*)-([1-9]\d*)")
"""Widths of the word embedding and of the state."""


def kind_of(encoder: str) -> Kind:
    """What an encoder of that name takes."""
    return "text" if TEXT_ENCODER.fullmatch(encoder) else "image"
