"""Channels without loss: every way in which .npy and TIFF lay them out comes back as it was, and the rest is named."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.contract import IMAGE_RAW
from dataprep.beton.jpeg_check import BadImage
from dataprep.beton.pixel_format import RGB, PixelFormat, channels_format
from dataprep.writing.channel_images import format_of, store_channels
from dataprep.writing.images import ImageOptions, store_image

FIVE = np.random.default_rng(0).integers(0, 65536, (20, 31, 5), dtype=np.uint16)
FIVE_16 = channels_format(5, 16)
PLANES = np.ascontiguousarray(np.moveaxis(FIVE, 2, 0))
CONTIG: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}


def options(pixels: PixelFormat = FIVE_16, max_resolution: int | None = None, **changes: Any) -> ImageOptions:
    return ImageOptions("raw", max_resolution, 90, changes.get("max_pixels", 1 << 20), pixels)


def npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def tiff(values: NDArray[Any], **how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **how)
    return file.getvalue()


def pillow(values: NDArray[Any], kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **how)
    return file.getvalue()


def stored(content: bytes | NDArray[np.uint8], chosen: ImageOptions | None = None) -> NDArray[Any]:
    chosen = chosen or options()
    found = store_channels(content, chosen)
    assert found.mode == IMAGE_RAW
    pixels = chosen.pixels
    return np.frombuffer(found.data, pixels.dtype).reshape(found.height, found.width, pixels.channels)


LAYOUTS = {
    "npy": npy(FIVE),
    "npy, channels first": npy(PLANES),
    "npy by columns": npy(np.asfortranarray(FIVE)),
    "npy, big-endian": npy(FIVE.astype(">u2")),
    "tiff, pixel by pixel": tiff(FIVE, **CONTIG),
    "tiff, big-endian": tiff(FIVE, **CONTIG, byteorder=">"),
    "bigtiff": tiff(FIVE, **CONTIG, bigtiff=True),
    "tiff, plane by plane": tiff(PLANES, photometric="minisblack", planarconfig="separate"),
    "tiff as numpy's array in pages": tiff(PLANES),
    "tiff as numpy's array in pages, channels last": tiff(FIVE),
    "tiff as RGB and two more": tiff(FIVE, photometric="rgb"),
    "tiff with deflate": tiff(FIVE, **CONTIG, compression="zlib"),
    "tiff with deflate in strips": tiff(FIVE, **CONTIG, compression="zlib", rowsperstrip=7),
    "tiff with deflate in tiles": tiff(FIVE, **CONTIG, compression="zlib", tile=(16, 16)),
    "tiff of ImageJ": tiff(PLANES, imagej=True, metadata={"axes": "CYX"}),
    "tiff of OME": tiff(PLANES, ome=True, metadata={"axes": "CYX"}),
    "tiff with white as 0": tiff(65535 - PLANES, photometric="miniswhite", planarconfig="separate"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_come_back_as_they_were_told_or_not(layout: str) -> None:
    content = LAYOUTS[layout]
    assert format_of([content], None) == format_of([content], 5) == (FIVE_16, "")
    np.testing.assert_array_equal(stored(content), FIVE)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (2, np.uint16), (3, np.uint16), (16, np.uint8)])
def test_other_numbers_of_channels_and_bits(channels: int, dtype: type) -> None:
    values = np.random.default_rng(1).integers(0, 256, (40, 33, channels)).astype(dtype)
    pixels = channels_format(channels, 8 * np.dtype(dtype).itemsize)
    for content in (npy(values), tiff(values, **(CONTIG if channels > 1 else {}))):
        assert format_of([content], channels) == (pixels, "")
        np.testing.assert_array_equal(stored(content, options(pixels)), values)
    assert format_of([npy(values)], None)[0] == pixels


def test_a_stack_is_channels_where_that_is_said_and_else_its_first_page() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for plane in PLANES[:3]:
            writer.write(plane, metadata=None)
    pixels, note = format_of([file.getvalue()], None)
    assert pixels == RGB
    assert "3 pages" in note
    assert "--channels 3" in note
    np.testing.assert_array_equal(stored(file.getvalue(), options(channels_format(3, 16))), FIVE[..., :3])


def test_rgb_is_what_was_rgb_before() -> None:
    colours = FIVE[..., :3].astype(np.uint8)
    for content in (pillow(colours, "PNG"), pillow(colours, "TIFF"), npy(colours), colours):
        assert format_of([content], None) == (RGB, "")
    np.testing.assert_array_equal(stored(tiff(colours), options(channels_format(3, 8))), colours)
    kept = store_image(npy(colours), ImageOptions("passthrough", None, 90, 1 << 20), as_jpeg=True)
    assert (kept.mode, kept.data) == (IMAGE_RAW, colours.tobytes())
    grey = store_image(npy(FIVE[..., 0]), ImageOptions("passthrough", None, 90, 1 << 20), as_jpeg=True)
    eighth = np.rint(FIVE[..., :1] / 257).astype(np.uint8)
    assert grey.data == np.repeat(eighth, 3, axis=2).tobytes()


def test_what_rgb_loses_is_said() -> None:
    assert "--channels 3 keeps all" in format_of([tiff(FIVE[..., :3])], None)[1]
    assert "--channels 1 keeps all" in format_of([pillow(FIVE[..., 0], "PNG")], None)[1]
    fourth = tiff(FIVE[..., :4].astype(np.uint8), photometric="rgb", extrasamples=["unspecified"])
    assert "--channels 4 keeps it" in format_of([fourth], None)[1]


def test_grey_stays_one_channel() -> None:
    grey, one = FIVE[..., 0].astype(np.uint8), options(channels_format(1, 8))
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    for content in (pillow(grey, "PNG"), pillow(as_rgb, "PNG"), pillow(grey, "TIFF"), npy(grey), as_rgb):
        np.testing.assert_array_equal(stored(content, one)[..., 0], grey)
    deep = pillow(FIVE[..., 0], "PNG")
    assert format_of([deep], 1) == (channels_format(1, 16), "")
    np.testing.assert_array_equal(stored(deep, options(channels_format(1, 16)))[..., 0], FIVE[..., 0])
    with pytest.raises(BadImage, match="3 channels of 8 bits, in a data set of 1 channel of 8 bits"):
        stored(pillow(FIVE[..., :3].astype(np.uint8), "PNG"), one)


def test_the_first_that_can_be_told_decides() -> None:
    assert format_of([b"", npy(FIVE)[:50], npy(FIVE), npy(FIVE[..., :2])], None)[0] == FIVE_16
    assert format_of([npy(FIVE), npy(FIVE[..., :2])], 2)[0] == channels_format(2, 16)
    assert format_of([], 4)[0] == channels_format(4, 8)
    assert format_of([], None)[0] == RGB


def test_a_long_side_is_brought_down_as_pillow_does_each_plane() -> None:
    found = stored(npy(FIVE), options(max_resolution=15))
    assert found.shape == (10, 15, 5)
    for channel in range(5):
        plane = Image.fromarray(FIVE[..., channel].astype(np.float32)).resize((15, 10), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found[..., channel], np.clip(np.rint(np.asarray(plane)), 0, 65535))


def test_a_tiff_lies_as_its_orientation_says() -> None:
    turned = tiff(FIVE, **CONTIG, extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(stored(turned), np.rot90(FIVE, -1))
    plain = Image.open(io.BytesIO(tiff(FIVE[..., 0], extratags=[(274, "H", 1, 6, True)])))
    plain.load()
    np.testing.assert_array_equal(np.asarray(plain), np.rot90(FIVE[..., 0], -1))  # as Pillow has it


def _bomb() -> bytes:
    """A compressed stretch of a small picture that becomes a gigabyte."""
    content = bytearray(tiff(np.zeros((64, 64, 5), np.uint8), **CONTIG, compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        tags = file.pages[0].tags
        place, size = tags["StripOffsets"], tags["StripByteCounts"]
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    content[place.valueoffset : place.valueoffset + 4] = struct.pack("<I", len(content))
    format_of_size = "<H" if size.dtype == 3 else "<I"
    content[size.valueoffset : size.valueoffset + 2] = struct.pack(format_of_size, len(packed) % 65536)[:2]
    return bytes(content) + packed


def _huge() -> bytes:
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (60000, 60000, 5), }"
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


REFUSED = {
    "17 channels": (npy(np.zeros((20, 20, 17), np.uint8)), "no axis of 5 channels"),
    "17 channels of a tiff": (tiff(np.zeros((20, 20, 17), np.uint8), **CONTIG), "17 channels, allowed: 1 to 16"),
    "other channels": (npy(FIVE[..., :4]), "no axis of 5 channels"),
    "other channels of a tiff": (tiff(FIVE[..., :4], **CONTIG), "4 channels of 16 bits, in a data set of 5 channels"),
    "other bits": (npy(FIVE.astype(np.uint8)), "5 channels of 8 bits, in a data set of 5 channels of 16 bits"),
    "floating point": (npy(FIVE.astype(np.float32)), "float32 values have no stated range, allowed: uint8 and uint16"),
    "a floating-point tiff": (tiff(FIVE.astype(np.float32), **CONTIG), "float32 values have no stated range"),
    "signed": (npy(FIVE.astype(np.int16)), "int16 values have no stated range"),
    "one axis": (npy(FIVE[0, 0]), "shape 5, allowed: two axes"),
    "objects": (b"\x93NUMPY\x01\x00" + npy(np.array([{}], object))[8:], "an array of Python objects"),
    "cut off": (npy(FIVE)[:-1], "states 6,200 bytes of values and holds 6,199"),
    "a tiff cut off": (tiff(FIVE, **CONTIG)[:-9], "cut off"),
    "a damaged header": (npy(FIVE).replace(b"'shape'", b"'shame'"), "header is damaged"),
    "more than it holds": (_huge(), "states 36,000,000,000 bytes of values and holds 100"),
    "a decompression bomb": (_bomb(), "decompression bomb"),
    "ink": (tiff(FIVE[..., :4], photometric="separated", planarconfig="contig"), "SEPARATED, allowed: grey, RGB or"),
    "a JPEG": (pillow(FIVE[..., :3].astype(np.uint8), "JPEG"), "3 channels of 8 bits, in a data set of 5 channels"),
    "no image": (b"hello", "not an image of a known format"),
    "nothing": (b"", "empty file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_kept_is_refused_with_its_reason(kind: str) -> None:
    content, reason = REFUSED[kind]
    with pytest.raises(BadImage, match=reason):
        store_channels(content, options())


def test_too_many_pixels_are_refused_from_the_header() -> None:
    for content in (npy(FIVE), tiff(FIVE, **CONTIG)):
        with pytest.raises(BadImage, match="over --max-pixels 100"):
            store_channels(content, options(max_pixels=100))


def test_channels_among_rgb_images_are_refused_not_cut_down() -> None:
    for content in (npy(FIVE), tiff(FIVE, **CONTIG), tiff(FIVE.astype(np.uint8), photometric="rgb")):
        with pytest.raises(BadImage, match="in a data set of RGB images; write those apart, with --channels 5"):
            store_image(content, ImageOptions("passthrough", None, 90, 1 << 20), as_jpeg=True)


def test_a_shape_that_does_not_tell_its_channels_asks() -> None:
    small = npy(np.zeros((8, 12, 4), np.uint8))
    assert format_of([small], None)[0] == RGB
    with pytest.raises(BadImage, match="does not tell which axis is that of the channels; say --channels NUMBER"):
        store_image(small, ImageOptions("raw", None, 90, 1 << 20), as_jpeg=True)
    assert stored(small, options(channels_format(4, 8))).shape == (8, 12, 4)
    assert stored(small, options(channels_format(8, 8))).shape == (12, 4, 8)


@pytest.mark.parametrize("compression", [5, 50000])
def test_a_codec_that_is_not_here_is_named_with_its_cure(compression: int, tmp_path: Path) -> None:
    content = bytearray(tiff(FIVE, **CONTIG))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        place = file.pages[0].tags["Compression"].valueoffset
    content[place : place + 2] = struct.pack("<H", compression)
    with pytest.raises(BadImage, match="save it with deflate or without compression, or pip install imagecodecs"):
        store_channels(bytes(content), options())
