"""Both branches of a run on captions, out of a checkpoint: where an image and a caption meet are the embeddings.

A file of one encoder is not enough for that: the expanders belong to it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vicreg import checkpoint, networks
from vicreg.branches import Branches
from vicreg.config import PretrainConfig
from vicreg.method import UNKNOWN_DATA
from vicreg.model import num_features


class Pair(nn.Module):
    """Encoder and expander of images and of captions. Called as an encoder, it is that of images: its features."""

    def __init__(self, method: Branches) -> None:
        super().__init__()
        self.encoder, self.expander = method.encoder, method.expander
        self.encoder_b, self.expander_b = method.encoder_b, method.expander_b
        self.num_features = num_features(self.encoder)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) to the features (B, num_features) of their encoder."""
        features: Tensor = self.encoder(images)
        return features

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) to embeddings (B, D)."""
        embeddings: Tensor = self.expander(self.encoder(images))
        return embeddings

    def embed_captions(self, captions: Tensor) -> Tensor:
        """Numbers of words (B, L) to embeddings (B, D)."""
        embeddings: Tensor = self.expander_b(self.encoder_b(captions))
        return embeddings


def pair_of(path: Path, config: PretrainConfig, is_random: bool = False) -> Pair:
    """The branches in a checkpoint, or the same with random weights that know the same words, in eval mode on the CPU.

    ValueError where the weights do not fit, or the method has no two branches.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        method = networks.build(config, UNKNOWN_DATA)
    if not isinstance(method, Branches):
        raise ValueError(f"method.name is {config.method.name!r}, allowed for retrieval: one of two branches")
    weights: dict[str, Tensor] = checkpoint.load(path)["method"]
    pair = Pair(method.to(torch.float32)).eval()
    own = {name: weights[name] for name in pair.state_dict() if name in weights}
    if is_random:
        own = {**pair.state_dict(), "encoder_b.words": own["encoder_b.words"]}
    try:
        pair.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the run's branches ({error})") from error
    return pair
