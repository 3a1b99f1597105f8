"""Decode the images of a beton, each once for all of its views, from any number of threads.

JPEGs are decoded by libturbojpeg, the library that FFCV's own operations call, reached through FFCV's compiled part
(or by its name where FFCV is absent; Pillow where it is missing too: the same pixels, more slowly). Not through FFCV's
`imdecode`: that throws the library's return code away, so that a destroyed image is silently trained on as whatever
was in the buffer before, and it cannot place rows in a padded batch. The accurate inverse DCT is used instead of
FFCV's fast one: it costs 2 % of the time (measured) and gives Pillow's pixels exactly instead of up to 7 levels off.
FFCV is not imported for this, which saves the seconds that its import takes. Calls release the GIL.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.contract import IMAGE_RAW, Beton, BetonError, manifest_samples

logger = logging.getLogger(__name__)

StoredBytes = Callable[[int], NDArray[np.uint8]]
"""What a beton's file holds of a sample's image; may wait for it."""

_TJPF_RGB = 0
_TJSAMP_420, _TJSAMP_GRAY = 2, 3
_TJCS_YCBCR, _TJCS_GRAY = 1, 2
_TJFLAG_ACCURATEDCT = 4096
_TJERR_WARNING = 0
_GREY = 128  # Cb and Cr of what has no colour
_MIN_CHROMA_WIDTH = 3  # libjpeg enlarges narrower planes in another way (jdsample.c)


class DecodeError(RuntimeError):
    """A sample that cannot be decoded; the message names the beton, the sample and the cure."""


class ImageReader:
    """Reads images of one beton into given memory; one object serves all threads."""

    def __init__(self, beton: Beton) -> None:
        self.beton = beton
        self._library = turbojpeg()
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._checksums: NDArray[np.uint32] | None = None
        self._flawed: set[int] = set()

    def shape(self, sample: int) -> tuple[int, int]:
        """Height and width of a sample's image in pixels."""
        return int(self.beton.heights[sample]), int(self.beton.widths[sample])

    def read_into(self, out: NDArray[np.uint8], sample: int, stored: StoredBytes | None = None) -> None:
        """Decode a sample into `out` (height, width, 3), whose rows may be padded.

        stored: where its bytes come from, if they are not to be read now.
        DecodeError: the stored image is damaged or of another size than the beton states.
        """
        height, width = self.shape(sample)
        assert out.shape == (height, width, 3), (out.shape, height, width)
        assert out.strides[1:] == (3, 1), out.strides
        content = (stored or self._read_stored)(sample)
        if self.beton.modes[sample] == IMAGE_RAW:
            out[...] = content.reshape(height, width, 3)
        elif self._library is not None:
            self._decompress(out, sample, content)
        else:
            try:
                out[...] = self.beton.decode(sample, content)
            except BetonError as error:
                raise self._error(sample, str(error)) from error

    def read(self, sample: int, stored: StoredBytes | None = None) -> NDArray[np.uint8]:
        """A sample's image (height, width, 3) in memory of this thread that the thread's next `read` overwrites."""
        height, width = self.shape(sample)
        image = self._scratch("pixels", height * width * 3).reshape(height, width, 3)
        self.read_into(image, sample, stored)
        return image

    def read_planes_into(
        self, luma: NDArray[np.uint8], chroma: NDArray[np.uint8], sample: int, stored: StoredBytes | None = None
    ) -> NDArray[np.uint8] | None:
        """Decode a sample into planes (see `Planes`: H x W and 2 x H/2 + 1 x W/2 + 1), or return it as RGB.

        RGB, in memory of its own, is what is not stored as JPEG with colours at half the size (4:2:0), or grey.
        DecodeError: as `read_into`.
        """
        height, width = self.shape(sample)
        rows, columns = (height + 1) // 2, (width + 1) // 2
        is_jpeg = self._library is not None and self.beton.modes[sample] != IMAGE_RAW
        if not is_jpeg or columns < _MIN_CHROMA_WIDTH:
            return self.read(sample, stored).copy()
        content = stored(sample) if stored else self._read_stored(sample)
        if not self._decompress_planes(luma, chroma, sample, content):
            return self.read(sample, lambda _: content).copy()
        chroma[:, :rows, columns] = chroma[:, :rows, columns - 1]
        chroma[:, rows, : columns + 1] = chroma[:, rows - 1, : columns + 1]
        return None

    def _decompress(self, out: NDArray[np.uint8], sample: int, content: NDArray[np.uint8]) -> None:
        """Decode one JPEG, `content`, to RGB."""
        library, handle, height, width = self._library, self._decompressor(), *out.shape[:2]
        assert library is not None
        self._header(sample, content, handle)
        target = (out.ctypes.data, width, out.strides[0], height, _TJPF_RGB, _TJFLAG_ACCURATEDCT)
        if library.tjDecompress2(handle, content.ctypes.data, content.size, *target):
            self._judge(sample, content, handle)

    def _decompress_planes(
        self, luma: NDArray[np.uint8], chroma: NDArray[np.uint8], sample: int, content: NDArray[np.uint8]
    ) -> bool:
        """Decode one JPEG, `content`, to its planes; False where it does not have these."""
        handle = self._decompressor()
        kind = self._header(sample, content, handle)
        if kind == (_TJSAMP_GRAY, _TJCS_GRAY):
            chroma[...] = _GREY
        elif kind != (_TJSAMP_420, _TJCS_YCBCR):
            return False
        addresses = (ctypes.c_void_p * 3)(luma.ctypes.data, chroma[0].ctypes.data, chroma[1].ctypes.data)
        strides = (ctypes.c_int * 3)(luma.strides[0], chroma.strides[1], chroma.strides[1])
        target = (addresses, 0, strides, 0, _TJFLAG_ACCURATEDCT)
        if self._library.tjDecompressToYUVPlanes(handle, content.ctypes.data, content.size, *target):
            self._judge(sample, content, handle)
        return True

    def _header(self, sample: int, content: NDArray[np.uint8], handle: ctypes.c_void_p) -> tuple[int, int]:
        """A JPEG's kind of subsampling and of colours; DecodeError when it is not of the size that is stated."""
        width, height, subsampling, colours = (ctypes.c_int() for _ in range(4))
        found = tuple(ctypes.byref(value) for value in (width, height, subsampling, colours))
        if self._library.tjDecompressHeader3(handle, content.ctypes.data, content.size, *found):
            self._judge(sample, content, handle)
        stated = self.shape(sample)
        if (height.value, width.value) != stated:
            reason = f"its JPEG is {width.value} x {height.value} pixels, stated {stated[1]} x {stated[0]}"
            raise self._error(sample, reason)
        return subsampling.value, colours.value

    def _read_stored(self, sample: int) -> NDArray[np.uint8]:
        """A sample's stored bytes, good until this thread reads the next.

        Read rather than mapped: one request of the image's size where the disk is asked, and an error, not a signal,
        where the file has been cut. From the file cache it costs 3 us more, half a per cent of decoding a photo.
        """
        content = self._scratch("stored", int(self.beton.sizes[sample]))
        self.beton.file.read_into(content, int(self.beton.pointers[sample]))
        return content

    def _scratch(self, name: str, size: int) -> NDArray[np.uint8]:
        """This thread's memory of that name, of undefined content."""
        scratch: NDArray[np.uint8] | None = getattr(self._threads, name, None)
        if scratch is None or scratch.size < size:
            scratch = np.empty(size, np.uint8)
            setattr(self._threads, name, scratch)
        return scratch[:size]

    def _judge(self, sample: int, content: NDArray[np.uint8], handle: ctypes.c_void_p) -> None:
        """Raise DecodeError for what libturbojpeg complains of, unless the image decoded and is as it was written.

        Some photos, ImageNet's among them, decode whole while a strict decoder complains (of stray bytes, say). But
        damage on the disk looks the same, so the bytes must have the checksum that the writer's manifest states.
        """
        assert self._library is not None
        reason = self._library.tjGetErrorStr2(handle).decode("ascii", "replace")
        if self._library.tjGetErrorCode(handle) != _TJERR_WARNING or not self._is_as_written(sample, content):
            raise self._error(sample, reason)
        if sample not in self._flawed:
            self._flawed.add(sample)
            logger.warning("%s: sample %d was written with a flaw (%s); used as it is", self.beton.path, sample, reason)

    def _is_as_written(self, sample: int, content: NDArray[np.uint8]) -> bool:
        """Has the stored image the checksum of the manifest? False where there is no manifest to tell."""
        with self._lock:
            if self._checksums is None:
                try:
                    self._checksums = np.fromiter((crc for _, crc in manifest_samples(self.beton.path)), np.uint32)
                except (OSError, BetonError):
                    self._checksums = np.empty(0, np.uint32)
        found = zlib.crc32(content.tobytes())
        return sample < len(self._checksums) and found == int(self._checksums[sample])

    def _decompressor(self) -> ctypes.c_void_p:
        """This thread's decompressor, given back when the thread ends."""
        owner: _Decompressor | None = getattr(self._threads, "decompressor", None)
        if owner is None:
            owner = self._threads.decompressor = _Decompressor(self._library)
        return owner.handle

    def _error(self, sample: int, reason: str) -> DecodeError:
        path = self.beton.path
        return DecodeError(
            f"{path}: sample {sample} cannot be decoded ({reason}); "
            f"`python dataprep/write_ffcv.py verify {path}` lists every damaged sample"
        )


class _Decompressor:
    """Owner of one libturbojpeg decompressor."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.handle = ctypes.c_void_p(library.tjInitDecompress())
        if not self.handle:
            raise MemoryError("libturbojpeg gave no decompressor")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.tjDestroy(self.handle)


@functools.cache
def turbojpeg() -> Any:
    """libturbojpeg with its functions declared, as a ctypes library; None (said once) where it cannot be found."""
    for name in (*_ffcv_libraries(), "libturbojpeg.so.0", "libturbojpeg.so", "libturbojpeg.dylib"):
        try:
            library = ctypes.CDLL(name)
            _declare(library)
        except (OSError, AttributeError):
            continue
        return library
    logger.warning("libturbojpeg not found: Pillow decodes the images, the same pixels at about 0.7 times the speed")
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
