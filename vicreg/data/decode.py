"""Decode the images of a beton, each once for all of its views, from any number of threads.

JPEGs are decoded by libturbojpeg, the library that FFCV's own operations call, or by what stands in for it
(`dataprep/beton/jpeg_decoder.py`): the same pixels. Not through FFCV's `imdecode`: that throws the library's return
code away, so that a destroyed image is silently trained on as whatever was in the buffer before, and it cannot place
rows in a padded batch. The accurate inverse DCT is used instead of FFCV's fast one: it costs 2 % of the time (measured)
and gives Pillow's pixels exactly instead of up to 7 levels off.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.contract import IMAGE_RAW, BadSample, Beton, BetonError
from dataprep.beton.jpeg_decoder import WheelJpeg, jpeg_decoder
from dataprep.beton.manifest import sample_checksums
from dataprep.beton.turbojpeg import (
    COLOURS_GRAY,
    COLOURS_YCBCR,
    RGB,
    SUBSAMPLING_420,
    SUBSAMPLING_GRAY,
    Complaint,
    Jpeg,
)

logger = logging.getLogger(__name__)

StoredBytes = Callable[[int], NDArray[np.uint8]]
"""What a beton's file holds of a sample's image; may wait for it."""

COMPARED_EVERY = 16
"""Of so many images that are read one, by chance, is compared with its checksum: damage that decodes is found within
some epochs, for a fifth of a per cent of the time that decoding takes. No pixel depends on the chance."""
MAX_TRIES = 1000
"""Samples that are looked at for one that can stand in for a bad one."""
_GREY = 128  # Cb and Cr of what has no colour
_MIN_CHROMA_WIDTH = 3  # libjpeg enlarges narrower planes in another way (jdsample.c)


DecodeError = BadSample
"""What every method of an `ImageReader` raises for a sample: it has the beton, the sample and the reason."""


class ImageReader:
    """Reads images of one beton into given memory; one object serves all threads, and goes on after a bad image."""

    def __init__(self, beton: Beton, on_bad: Literal["fail", "skip"] = "fail") -> None:
        """on_bad: as `DataConfig` has it."""
        self.beton = beton
        self.stand_ins: dict[int, int] = {}
        """Of each bad sample that was met, the one that stands in for it."""
        self._skips = on_bad == "skip"
        self._decoder = jpeg_decoder()
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._checksums: NDArray[np.uint32] | None = None
        self._flawed: set[int] = set()
        self._random = random.Random()

    def shape(self, sample: int) -> tuple[int, int]:
        """Height and width of a sample's image in pixels."""
        return int(self.beton.heights[sample]), int(self.beton.widths[sample])

    def read_into(self, out: NDArray[Any], sample: int, stored: StoredBytes | None = None) -> None:
        """Decode a sample into `out` (height, width, channels) of the beton's type, whose rows may be padded.

        stored: where its bytes come from, if they are not to be read now.
        DecodeError: the stored image is damaged or of another size than the beton states, and is not to be skipped.
        """
        try:
            self._read_into(out, sample, stored)
        except DecodeError as error:
            out[...] = self._stand_in(error)

    def _read_into(self, out: NDArray[Any], sample: int, stored: StoredBytes | None) -> None:
        height, width = self.shape(sample)
        pixels = self.beton.pixels
        assert out.shape == (height, width, pixels.channels), (out.shape, height, width)
        assert out.strides[1:] == (pixels.pixel_bytes, pixels.dtype.itemsize), out.strides
        content = (stored or self._read_stored)(sample)
        self._compare_now_and_then(sample, content)
        if self.beton.modes[sample] == IMAGE_RAW:
            out[...] = self.beton.decode(sample, content)
        elif self._decoder is not None:
            self._decompress(self._decoder(content), out, sample, content)
        else:
            out[...] = self.beton.decode(sample, content)

    def read(self, sample: int, stored: StoredBytes | None = None) -> NDArray[Any]:
        """A sample's image (height, width, channels), in memory that this thread's next `read` overwrites."""
        (height, width), pixels = self.shape(sample), self.beton.pixels
        scratch = self._scratch("pixels", height * width * pixels.pixel_bytes)
        image = scratch.view(pixels.dtype).reshape(height, width, pixels.channels)
        self.read_into(image, sample, stored)
        return image

    def read_planes_into(
        self, luma: NDArray[np.uint8], chroma: NDArray[np.uint8], sample: int, stored: StoredBytes | None = None
    ) -> NDArray[np.uint8] | None:
        """Decode a sample into planes (see `Planes`: H x W and 2 x H/2 + 1 x W/2 + 1), or return it as RGB.

        RGB, in memory of its own, is what is not stored as JPEG with colours at half the size (4:2:0), or grey; and all
        where simplejpeg or Pillow decodes.
        DecodeError: as `read_into`.
        """
        height, width = self.shape(sample)
        rows, columns = (height + 1) // 2, (width + 1) // 2
        has_planes = self._decoder is Jpeg and self.beton.modes[sample] != IMAGE_RAW
        if not has_planes or columns < _MIN_CHROMA_WIDTH:
            return self.read(sample, stored).copy()
        content = (stored or self._read_stored)(sample)
        try:
            self._compare_now_and_then(sample, content)
            if not self._decompress_planes(luma, chroma, sample, content):
                return self.read(sample, lambda _: content).copy()
        except DecodeError as error:
            return self._stand_in(error)
        chroma[:, :rows, columns] = chroma[:, :rows, columns - 1]
        chroma[:, rows, : columns + 1] = chroma[:, rows - 1, : columns + 1]
        return None

    def num_stand_ins(self, samples: list[int]) -> int:
        """For how many of these samples, which have been read, others stand in."""
        return sum(sample in self.stand_ins for sample in samples)

    def _stand_in(self, error: DecodeError) -> NDArray[Any]:
        """The image that stands in for a bad sample's, brought to the size that is stated of that; or raise the error.

        It is that of the next sample of the same class that can be decoded: a function of the file alone, so that
        training has the same bits on any number of ranks and after a resume.
        """
        if not self._skips:
            raise error
        sample = error.sample
        for other in self._alike(sample):
            height, width = self.shape(other)
            image = np.empty((height, width, self.beton.pixels.channels), self.beton.pixels.dtype)
            try:
                self._read_into(image, other, None)
            except DecodeError:
                continue
            if self.stand_ins.get(sample) != other:
                logger.warning("%s; sample %s stands in for it", error, f"{other:,}")
            self.stand_ins[sample] = other
            rows, columns = (
                np.arange(stated) * found // stated
                for stated, found in zip(self.shape(sample), (height, width), strict=True)
            )
            return image[rows[:, None], columns]
        raise DecodeError(error.beton, sample, f"{error.reason}, and none of its class after it can stand in for it")

    def _alike(self, sample: int) -> list[int]:
        """Samples of the same class, those that follow first; the one that stood in before alone, if there is one."""
        if sample in self.stand_ins:
            return [self.stand_ins[sample]]
        labels = self.beton.labels
        alike = np.flatnonzero(labels == labels[sample]) if labels.ndim == 1 else np.arange(len(labels))
        after = np.roll(alike, -int(np.searchsorted(alike, sample, side="right")))
        found: list[int] = after[after != sample][:MAX_TRIES].tolist()
        return found

    def _decompress(
        self, jpeg: Jpeg | WheelJpeg, out: NDArray[np.uint8], sample: int, content: NDArray[np.uint8]
    ) -> None:
        """Decode one JPEG, `content`, to RGB."""
        self._kind(jpeg, sample, content)
        self._judge(sample, content, jpeg.pixels(out, RGB))

    def _decompress_planes(
        self, luma: NDArray[np.uint8], chroma: NDArray[np.uint8], sample: int, content: NDArray[np.uint8]
    ) -> bool:
        """Decode one JPEG, `content`, to its planes; False where it does not have these."""
        jpeg = Jpeg(content)
        kind = self._kind(jpeg, sample, content)
        if kind == (SUBSAMPLING_GRAY, COLOURS_GRAY):
            chroma[...] = _GREY
        elif kind != (SUBSAMPLING_420, COLOURS_YCBCR):
            return False
        addresses = [luma.ctypes.data, chroma[0].ctypes.data, chroma[1].ctypes.data]
        pitches = [luma.strides[0], chroma.strides[1], chroma.strides[1]]
        self._judge(sample, content, jpeg.planes(addresses, pitches))
        return True

    def _kind(self, jpeg: Jpeg | WheelJpeg, sample: int, content: NDArray[np.uint8]) -> tuple[int, int]:
        """A JPEG's kind of subsampling and of colours; DecodeError when it is not of the size that is stated."""
        found, complaint = jpeg.header()
        self._judge(sample, content, complaint)
        height, width = self.shape(sample)
        if (found.height, found.width) != (height, width):
            reason = f"its JPEG is {found.width} x {found.height} pixels, stated {width} x {height}"
            raise DecodeError(self.beton.path, sample, reason)
        return found.subsampling, found.colours

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

    def _judge(self, sample: int, content: NDArray[np.uint8], complaint: Complaint | None) -> None:
        """Raise DecodeError for what the decoder complains of, unless the image decoded and is as it was written.

        Some photos, ImageNet's among them, decode whole while a strict decoder complains (of stray bytes, say). But
        damage on the disk looks the same, so the bytes must have the checksum that the writer's manifest states.
        """
        if complaint is None:
            return
        if complaint.fatal or not self._is_as_written(sample, content):
            raise DecodeError(self.beton.path, sample, complaint.reason)
        if sample not in self._flawed:
            self._flawed.add(sample)
            what = f"sample {sample} was written with a flaw ({complaint.reason})"
            logger.warning("%s: %s; used as it is", self.beton.path, what)

    def _compare_now_and_then(self, sample: int, content: NDArray[np.uint8]) -> None:
        """DecodeError when this image happens to be compared with its checksum, and has another.

        Where bad samples are skipped all are compared: what is trained on must not depend on chance.
        """
        compares = self._skips or self._random.random() * COMPARED_EVERY < 1
        if compares and self._is_as_written(sample, content) is False:
            raise DecodeError(self.beton.path, sample, "its bytes have changed since they were written")

    def _is_as_written(self, sample: int, content: NDArray[np.uint8]) -> bool | None:
        """Has the stored image the checksum of the manifest? None where there is no manifest to tell."""
        with self._lock:
            if self._checksums is None:
                try:
                    self._checksums = sample_checksums(self.beton.path)
                except BetonError:
                    self._checksums = np.empty(0, np.uint32)
        if sample >= len(self._checksums):
            return None
        return self.beton.checksum(sample, content) == int(self._checksums[sample])
