"""What a view is for the networks: its shape, from the configuration alone."""

from __future__ import annotations

from vicreg.config import PretrainConfig
from vicreg.sound_config import takes


def view_shape(config: PretrainConfig, number: int) -> tuple[int, ...]:
    """Channels and sides of a view as networks take it; of sound channel and length, or those of its spectrogram."""
    view, model = config.each_view[number], config.model
    if not model.sound.is_on:
        return model.in_channels, view.image_size, view.image_size
    length = model.sound.view_samples(view.sound)
    if takes(model.encoder_b if number and model.encoder_b else model.encoder) == "waveform":
        return 1, length
    return 1, model.sound.bands, model.sound.frames(length)
