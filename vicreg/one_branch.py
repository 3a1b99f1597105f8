"""The configuration of one branch of a model, by the name of its encoder; read without torch."""

from __future__ import annotations

from dataclasses import replace

from vicreg.config import ModelConfig


def branch(config: ModelConfig, encoder: str = "") -> ModelConfig:
    """The configuration of one branch, by its encoder's name: a (or none) is the first, b the second.

    Raises ValueError for a name that the model does not have.
    """
    names = ["a", *(["b"] if config.encoder_b else [])]
    if encoder not in ("", *names):
        shared = "" if config.encoder_b else " (the branches share it)"
        raise ValueError(f"encoder is {encoder!r}, allowed for this run: {', '.join(names)}{shared}")
    name = config.encoder_b if encoder == "b" else config.encoder
    expander = config.expander_b or config.expander if encoder == "b" else config.expander
    return without_beginning(replace(config, encoder=name, encoder_b="", expander=expander, expander_b=""))


def without_beginning(config: ModelConfig) -> ModelConfig:
    """The same network, wherever its weights began."""
    return replace(config, weights="", weights_part="", weights_channels="refuse")
