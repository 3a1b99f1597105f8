"""The encoder of captions: word embedding and a GRU, of which the state behind the last word is taken.

As in VSE++ (Faghri et al., BMVC 2018, and its code): widths 300 and 1024, one layer, embeddings from -0.1 to 0.1.
Words come as numbers that hash their letters (views/captions.py). The encoder itself remembers which of them are known,
so that its weights are all that reading captions takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vicreg.branch_kinds import TEXT_ENCODER
from vicreg.config import require
from vicreg.views.captions import PADDING

UNKNOWN = 0
"""Row of the embedding for all words that are not known; padding has it too, which is not looked at."""
EMBEDDING_RANGE = 0.1


class TextEncoder(nn.Module):
    """Numbers of words (B, L) int64, behind the last word of each row PADDING, to features (B, state)."""

    words: Tensor
    """int64 (num_words,), ascending: the numbers of the known words; the embedding of the i-th is row i + 1."""

    def __init__(self, num_words: int, embedding: int, state: int) -> None:
        super().__init__()
        self.num_features = state
        self.register_buffer("words", torch.zeros(num_words, dtype=torch.int64))
        self.embedding = nn.Embedding(1 + num_words, embedding)
        nn.init.uniform_(self.embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        self.gru = nn.GRU(embedding, state, batch_first=True)

    def know(self, words: Sequence[int]) -> None:
        """Take these numbers, ascending, as the known words; ValueError for another count than it was built for."""
        require(
            len(words) == len(self.words),
            "num_words",
            len(self.words),
            f"{len(words)}, the words of the training captions",
        )
        self.words.copy_(torch.tensor(words))

    def forward(self, captions: Tensor) -> Tensor:
        """See the class."""
        states, _ = self.gru(self.embedding(self._rows(captions)))
        last = (captions != PADDING).sum(1).clamp_min(1) - 1
        found: Tensor = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)
        return found

    def _rows(self, captions: Tensor) -> Tensor:
        """The rows of the embedding that belong to words (B, L)."""
        if not len(self.words):
            return torch.zeros_like(captions)
        places = torch.searchsorted(self.words, captions.contiguous()).clamp_max(len(self.words) - 1)
        return torch.where(self.words[places] == captions, places + 1, UNKNOWN)


def build_text_encoder(name: str, num_words: int) -> TextEncoder:
    """The encoder of that name, gru-EMBEDDING-STATE, with random weights from torch's generator, for so many words."""
    found = TEXT_ENCODER.fullmatch(name)
    assert found, name
    return TextEncoder(num_words, *map(int, found.groups()))
