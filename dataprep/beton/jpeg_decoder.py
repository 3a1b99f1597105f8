"""The one decoder of JPEGs, that which checks and that which trains: what one lets pass, the other decodes.

It is libturbojpeg where the system or FFCV has it. Where not, it is the libjpeg-turbo inside the wheel of simplejpeg:
the same bits in 0.95 of the time (Pillow: 1.31, and it tells of no damage but a missing end), but no planes.
"""

from __future__ import annotations

import functools
import importlib.util
import logging

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.turbojpeg import (
    CMYK,
    COLOURS_GRAY,
    COLOURS_OTHER,
    COLOURS_YCBCR,
    GRAY,
    RGB,
    SUBSAMPLING_420,
    SUBSAMPLING_GRAY,
    SUBSAMPLING_OTHER,
    SUBSAMPLING_UNKNOWN,
    Complaint,
    Header,
    Jpeg,
    turbojpeg,
)

logger = logging.getLogger(__name__)

UNUSUAL_SAMPLING = "colours sampled in no usual way"
_MAX_SCANS = 500  # libturbojpeg's own limit, so that no small file keeps a machine busy; simplejpeg sets none
_NAMES = {GRAY: "GRAY", CMYK: "CMYK", RGB: "RGB"}
_SUBSAMPLINGS = {"420": SUBSAMPLING_420, "Gray": SUBSAMPLING_GRAY, "unknown": SUBSAMPLING_UNKNOWN}
_COLOURS = {"YCbCr": COLOURS_YCBCR, "Gray": COLOURS_GRAY}


class WheelJpeg:
    """One JPEG file, as `Jpeg`, through simplejpeg."""

    def __init__(self, content: bytes | NDArray[np.uint8]) -> None:
        self._content = content

    def header(self) -> tuple[Header, Complaint | None]:
        """What the file states; with a fatal complaint nobody knows what."""
        from simplejpeg import decode_jpeg_header

        try:
            height, width, colours, subsampling = decode_jpeg_header(self._content, strict=True)
        except (KeyError, ValueError) as error:  # KeyError: a kind of sampling for which simplejpeg has no name
            return Header(-1, -1, SUBSAMPLING_UNKNOWN, COLOURS_OTHER), _fatal(error)
        known = _SUBSAMPLINGS.get(subsampling, SUBSAMPLING_OTHER)
        return Header(width, height, known, _COLOURS.get(colours, COLOURS_OTHER)), None

    def pixels(self, out: NDArray[np.uint8], pixel_format: int) -> Complaint | None:
        """Decode into `out` (height, width, channels), whose rows may be padded; RGB whole, the rest at an eighth."""
        from simplejpeg import decode_jpeg

        if bytes(self._content).count(b"\xff\xda") > _MAX_SCANS:
            return Complaint(f"JPEG with more than {_MAX_SCANS} scans", fatal=True)
        height, width = out.shape[:2]
        smaller = {} if pixel_format == RGB else {"min_height": height, "min_width": width}
        buffer = out if out.flags.c_contiguous else np.empty(out.shape, np.uint8)
        arguments = {"colorspace": _NAMES[pixel_format], "buffer": buffer, **smaller}
        complaint = None
        try:
            decode_jpeg(self._content, strict=True, **arguments)
        except ValueError as warning_or_error:
            try:
                decode_jpeg(self._content, strict=False, **arguments)
            except ValueError as error:
                return _fatal(error)
            complaint = Complaint(str(warning_or_error), fatal=False)
        if buffer is not out:
            out[...] = buffer
        return complaint


def _fatal(error: Exception) -> Complaint:
    is_unusual = isinstance(error, KeyError) or "Could not determine subsampling" in str(error)
    return Complaint(UNUSUAL_SAMPLING if is_unusual else str(error), fatal=True)


@functools.cache
def jpeg_decoder() -> type[Jpeg] | type[WheelJpeg] | None:
    """What decodes JPEGs on this machine; None (said once), and so Pillow, where nothing of libjpeg-turbo is found."""
    if turbojpeg() is not None:
        return Jpeg
    if importlib.util.find_spec("simplejpeg") is not None:
        return WheelJpeg
    logger.warning(
        "neither libturbojpeg nor simplejpeg found: Pillow checks and decodes the images, the same pixels at about 0.7 "
        "times the speed, but blind to JPEGs whose data end early behind a valid end marker; pip install simplejpeg"
    )
    return None
