"""A file of sound as a beton holds it: one channel of 16 bits at the data set's rate, of the data set's length.

Files of other rates are resampled (a windowed-sinc filter, which lets nothing fold back), several channels become their
mean, longer ones are cut to their middle and shorter ones get silence on both sides alike. What is empty, cut off,
silent or no sound is refused by name: libsndfile reads the beginning of a file that has been cut without a word.
"""

from __future__ import annotations

import io
import math
import struct

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.contract import IMAGE_RAW
from dataprep.beton.jpeg_check import BadImage
from dataprep.beton.pixel_format import RATES_HZ, SOUND_SCALE
from dataprep.writing.images import ImageOptions, StoredImage, decoding

BadClip = BadImage
"""Why a file cannot be used, for whoever speaks of sound."""
MAX_CHANNELS = 64
_STREAMED = (0, 0xFFFFFFFF)  # lengths that programs leave in a WAV that they could not rewind


def store_clip(content: bytes, options: ImageOptions) -> StoredImage:
    """A file's content as it is stored; BadClip says why it cannot be."""
    with decoding(options):
        values = read_sound(content, options.pixels.rate_hz, options.max_pixels)
        clip = _as_integers(to_length(values, options.clip_samples))
        if not clip.any():
            raise BadClip("silent: every sample that would be kept is 0")
        return StoredImage(IMAGE_RAW, len(clip), 1, clip.tobytes())


def read_sound(content: bytes, rate_hz: int, max_samples: int) -> NDArray[np.float64]:
    """The sound of a file (N,) as one channel at `rate_hz`, from -1 to 1; BadClip says why there is none."""
    import soundfile  # libsndfile: a tenth of a second that only sound waits for

    if not content:
        raise BadClip("empty file")
    _require_whole(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            low, high = RATES_HZ
            if not low <= file.samplerate <= high or file.channels > MAX_CHANNELS:
                raise BadClip(f"{file.channels} channels at {file.samplerate} Hz, allowed: {low:,} to {high:,} Hz")
            most = max_samples // file.channels
            if file.frames > most:
                raise BadClip(f"{file.frames:,} samples, allowed: {most:,} (--max-pixels {max_samples:,})")
            stated, found_hz = file.frames, file.samplerate
            values = file.read(dtype="float64", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise BadClip(f"no sound that can be read ({error.error_string.rstrip('.')})") from error
    if len(values) < stated:
        raise BadClip(f"cut off: {len(values):,} samples of {stated:,}")
    if not len(values):
        raise BadClip("no samples")
    if not np.isfinite(values).all():
        raise BadClip("has samples that are no finite numbers")
    return resampled(values.mean(axis=1), found_hz, rate_hz)


def resampled(values: NDArray[np.float64], from_hz: int, to_hz: int) -> NDArray[np.float64]:
    """Sound (N,) at another rate, by a polyphase filter."""
    if from_hz == to_hz:
        return values
    from scipy.signal import resample_poly

    common = math.gcd(from_hz, to_hz)
    found: NDArray[np.float64] = resample_poly(values, to_hz // common, from_hz // common)
    return found


def to_length(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The middle of sound (N,), or the sound in the middle of silence: (length,)."""
    spare = len(values) - length
    if spare >= 0:
        return values[spare // 2 : spare // 2 + length]
    return np.pad(values, (-spare // 2, -spare - -spare // 2))


def _as_integers(values: NDArray[np.float64]) -> NDArray[np.int16]:
    """16-bit files come back to the bit: libsndfile divides by the scale that is multiplied by here."""
    found: NDArray[np.int16] = np.clip(np.rint(values * SOUND_SCALE), -SOUND_SCALE, SOUND_SCALE - 1).astype("<i2")
    return found


def _require_whole(content: bytes) -> None:
    """BadClip for a WAV shorter than its data chunk says, or an Ogg stream without its last page."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        place = 12
        while place + 8 <= len(content):
            name, size = struct.unpack_from("<4sI", content, place)
            place += 8
            if name == b"data":
                missing = place + size - len(content)
                if missing > 0 and size not in _STREAMED:
                    raise BadClip(f"cut off: {missing:,} bytes of its {size:,} are missing")
                return
            place += size + size % 2
        raise BadClip("cut off: a WAV without samples")
    if content[:4] == b"OggS":
        last = content.rfind(b"OggS")
        if last + 5 >= len(content) or not content[last + 5] & 4:  # the flag of a stream's last page
            raise BadClip("cut off: an Ogg stream without its end")
