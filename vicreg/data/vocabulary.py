"""The words that a beton's captions have, and a configuration that knows them.

Stands apart from `captions.py`, because it is asked before a run, where options are read without torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dataprep.beton.contract import BetonError, read_manifest
from vicreg.config import PretrainConfig
from vicreg.views.captions import word_number

WORD_COUNTS = "words"
"""In a manifest: how often each word stands in the captions."""


def known_words(beton: Path, min_count: int) -> tuple[int, ...]:
    """Numbers, ascending, of the words that stand at least `min_count` times in the captions of a beton.

    Its manifest has counted them. ValueError where there is none, or no word is so frequent.
    """
    counts: dict[str, Any] = read_manifest(beton).get(WORD_COUNTS) or {}
    words = sorted(word_number(word) for word, count in counts.items() if count >= min_count)
    if not words:
        raise ValueError(
            f"{beton}: no word stands {min_count} times in its captions, allowed: data that "
            "dataprep/write_ffcv.py captions wrote, with its manifest, or a lower --model.min-word-count"
        )
    return tuple(words)


def fitted_to_captions(config: PretrainConfig) -> PretrainConfig:
    """The configuration whose encoder of captions knows the words of the training data; as it is where it has none."""
    if "text" not in config.other_kinds:
        return config
    try:
        words = known_words(Path(config.data.train), config.model.min_word_count)
    except BetonError:  # said when the data are asked for
        return config
    return replace(config, model=replace(config.model, num_words=len(words)))
