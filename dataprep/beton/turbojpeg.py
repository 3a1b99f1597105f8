"""libturbojpeg, the library that FFCV decodes with, reached without FFCV.

It is found through FFCV's compiled part, else by its name; FFCV is not imported for this, which saves the seconds that
its import takes. Calls release the GIL. `jpeg_decoder.py` knows what to take where this library is missing.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GRAY, CMYK, RGB = 6, 11, 0
"""Pixel formats (TJPF_*)."""
CHANNELS = {GRAY: 1, CMYK: 4, RGB: 3}
SUBSAMPLING_OTHER, SUBSAMPLING_420, SUBSAMPLING_GRAY, SUBSAMPLING_UNKNOWN = 0, 2, 3, -1
"""Kinds of chrominance subsampling (TJSAMP_*); the first stands for all that have a name and no meaning here."""
COLOURS_OTHER, COLOURS_YCBCR, COLOURS_GRAY = 0, 1, 2
"""Colour spaces (TJCS_*)."""
_ACCURATE_DCT, _LIMIT_SCANS = 4096, 32768
_WARNING = 0


class Complaint(NamedTuple):
    """What the library has against a JPEG: its first warning, or the error that ended it."""

    reason: str
    fatal: bool
    """Nothing was decoded; after a warning the picture is there, whole or not."""


class Header(NamedTuple):
    """What a JPEG states."""

    width: int
    height: int
    subsampling: int
    colours: int


class Jpeg:
    """One JPEG file and a decompressor of its own, for one thread at a time.

    A decompressor that is used again (making one takes 2 us) keeps the tables of the file before, with which it decodes
    a file that has lost its own; and after an error in a header it goes on in the middle of the bad file.
    content: the file's bytes, which stay as they are as long as this object is used.
    """

    def __init__(self, content: bytes | NDArray[np.uint8]) -> None:
        self._library, self._kept, self._size = turbojpeg(), content, len(content)
        self._content = content if isinstance(content, bytes) else content.ctypes.data
        self._handle = ctypes.c_void_p(self._library.tjInitDecompress())
        if not self._handle:
            raise MemoryError("libturbojpeg gave no decompressor")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.tjDestroy(self._handle)

    def header(self) -> tuple[Header, Complaint | None]:
        """What the file states; with a fatal complaint of nobody knows what. An unusual subsampling is none."""
        values = [ctypes.c_int() for _ in range(4)]
        references = map(ctypes.byref, values)
        code = self._library.tjDecompressHeader3(self._handle, self._content, self._size, *references)
        found = Header(*(value.value for value in values))
        is_unusual = found.width > 0 and found.subsampling == SUBSAMPLING_UNKNOWN
        return found, None if is_unusual else self._complaint(code)

    def pixels(self, out: NDArray[np.uint8], pixel_format: int) -> Complaint | None:
        """Decode into `out` (height, width, channels), whose rows may be padded.

        At an eighth of the size, rounded up, this costs little more than reading the codes.
        """
        height, width = out.shape[:2]
        target = (out.ctypes.data, width, out.strides[0], height, pixel_format, _ACCURATE_DCT | _LIMIT_SCANS)
        return self._complaint(self._library.tjDecompress2(self._handle, self._content, self._size, *target))

    def planes(self, addresses: list[int], pitches: list[int]) -> Complaint | None:
        """Decode brightness and colours, each at its own size, to three addresses (a grey JPEG fills the first)."""
        target = ((ctypes.c_void_p * 3)(*addresses), 0, (ctypes.c_int * 3)(*pitches), 0, _ACCURATE_DCT | _LIMIT_SCANS)
        return self._complaint(self._library.tjDecompressToYUVPlanes(self._handle, self._content, self._size, *target))

    def _complaint(self, code: int) -> Complaint | None:
        """What stands behind a return code."""
        if code == 0:
            return None
        reason = self._library.tjGetErrorStr2(self._handle).decode("ascii", "replace")
        return Complaint(reason, self._library.tjGetErrorCode(self._handle) != _WARNING)


@functools.cache
def turbojpeg() -> Any:
    """libturbojpeg with its functions declared, as a ctypes library; None where it cannot be found."""
    for name in (*_ffcv_libraries(), "libturbojpeg.so.0", "libturbojpeg.so", "libturbojpeg.dylib"):
        try:
            library = ctypes.CDLL(name)
            _declare(library)
        except (OSError, AttributeError):
            continue
        return library
    return None


def _ffcv_libraries() -> list[str]:
    """FFCV's compiled part: through it the symbols of the libturbojpeg that it was linked to are found."""
    spec = importlib.util.find_spec("ffcv")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    return [str(path) for folder in folders for path in sorted(Path(folder).glob("_libffcv*.so"))]


def _declare(library: Any) -> None:
    """State the C types of turbojpeg.h (TurboJPEG API 2.0 and later); AttributeError when a function is missing."""
    handle, address, size, number = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int
    reference = ctypes.POINTER(ctypes.c_int)
    library.tjInitDecompress.restype, library.tjInitDecompress.argtypes = handle, []
    library.tjDestroy.restype, library.tjDestroy.argtypes = number, [handle]
    library.tjGetErrorCode.restype, library.tjGetErrorCode.argtypes = number, [handle]
    library.tjGetErrorStr2.restype, library.tjGetErrorStr2.argtypes = ctypes.c_char_p, [handle]
    library.tjDecompressHeader3.restype = number
    library.tjDecompressHeader3.argtypes = [handle, address, size, reference, reference, reference, reference]
    library.tjDecompressToYUVPlanes.restype = number
    library.tjDecompressToYUVPlanes.argtypes = [handle, address, size, address, number, address, number, number]
    library.tjDecompress2.restype = number
    library.tjDecompress2.argtypes = [handle, address, size, address, number, number, number, number, number]
