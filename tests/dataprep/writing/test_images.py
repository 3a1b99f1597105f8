"""One raw image to stored bytes: what is kept, what is converted and how, what is rejected and why."""

from __future__ import annotations

import ctypes
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataprep.beton.contract import IMAGE_JPEG, IMAGE_RAW
from dataprep.beton.jpeg_check import BadImage
from dataprep.writing.images import ImageOptions, StoredImage, WriteMode, store_image
from tests.dataprep.raw_images import encoded, picture

PICTURE = picture(1, 64, 48)


def options(write_mode: WriteMode = "raw", max_resolution: int | None = None, quality: int = 90) -> ImageOptions:
    return ImageOptions(write_mode, max_resolution, quality, max_pixels=10_000_000)


def store(content: bytes, **changes: object) -> StoredImage:
    return store_image(content, options(**changes), as_jpeg=True)


def pixels(stored: StoredImage) -> np.ndarray:
    if stored.mode == IMAGE_RAW:
        return np.frombuffer(stored.data, np.uint8).reshape(stored.height, stored.width, 3)
    return np.asarray(Image.open(io.BytesIO(stored.data)))


def with_exif(content_of: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    content_of.save(buffer, kind, exif=exif.tobytes(), **({"quality": 100} if kind == "JPEG" else {"lossless": True}))
    return buffer.getvalue()


@pytest.mark.ffcv
@pytest.mark.parametrize(
    "save",
    [
        {"quality": 90},
        {"quality": 75, "progressive": True},
        {"quality": 90, "subsampling": "4:4:4"},
        {"quality": 90, "subsampling": "4:2:2"},
        {"quality": 90, "restart_marker_blocks": 2},
        {"quality": 90, "keep_rgb": True},
    ],
    ids=str,
)
def test_plain_jpegs_are_kept_and_every_decoder_agrees(save: dict[str, object]) -> None:
    content = encoded(PICTURE, **save)
    stored = store(content, write_mode="passthrough")
    assert stored.kept
    assert stored.data == content
    assert (stored.mode, stored.width, stored.height) == (IMAGE_JPEG, 64, 48)
    theirs = ffcv_decode(content, 48, 64)
    # FFCV asks for the fast DCT; the same RGB up to its rounding.
    assert np.abs(theirs.astype(int) - np.asarray(Image.open(io.BytesIO(content)))).max() <= 6


def ffcv_decode(content: bytes, height: int, width: int) -> np.ndarray:
    """As plain FFCV decodes a stored JPEG."""
    from ffcv import libffcv

    out = np.zeros((height, width, 3), np.uint8)
    source = np.frombuffer(content, np.uint8)
    code = libffcv.imdecode(source, out, height, width, height, width, 0, 0, 1, 1, False, False)
    assert ctypes.c_int(code).value == 0
    return out


def test_passthrough_encodes_what_is_too_large() -> None:
    content = encoded(PICTURE)
    assert store(content, write_mode="passthrough", max_resolution=64).kept
    small = store(content, write_mode="passthrough", max_resolution=32)
    assert not small.kept
    assert (small.mode, small.width, small.height) == (IMAGE_JPEG, 32, 24)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(PICTURE)
    undo = {  # how a camera would have stored the upright picture
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    lying = upright if orientation == 1 else upright.transpose(undo[orientation])
    content = with_exif(lying, orientation)
    stored = store(content)
    assert (stored.width, stored.height) == (64, 48)
    assert np.abs(pixels(stored).astype(int) - PICTURE).mean() < 3
    assert store(content, write_mode="passthrough").kept == (orientation == 1)
    shrunk = store(content, max_resolution=8)
    assert (shrunk.width, shrunk.height) == (8, 6)


def test_broken_exif_is_no_rotation() -> None:
    content = with_exif(Image.fromarray(PICTURE), 6)
    broken = content.replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX")
    assert broken != content
    assert store(broken, write_mode="passthrough").kept


def gray_jpeg() -> tuple[bytes, np.ndarray]:
    gray = PICTURE[..., 0]
    return encoded(gray, quality=100), np.repeat(gray[..., None], 3, axis=2)


def cmyk_jpeg() -> tuple[bytes, np.ndarray]:
    buffer = io.BytesIO()
    image = Image.fromarray(PICTURE).convert("CMYK")
    image.save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue(), PICTURE


def palette_png() -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(PICTURE).quantize(16)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), np.asarray(image.convert("RGB"))


def transparent_palette_png() -> tuple[bytes, np.ndarray]:
    indices = np.zeros((4, 6), np.uint8)
    indices[:, 3:] = 1
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    expected = np.full((4, 6, 3), 255, np.uint8)
    expected[:, 3:] = (0, 0, 255)
    return buffer.getvalue(), expected


def rgba_png() -> tuple[bytes, np.ndarray]:
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, :32] = 255
    expected = PICTURE.copy()
    expected[:, 32:] = 255
    return encoded(np.concatenate([PICTURE, alpha], axis=2), "PNG"), expected


def gray_alpha_png() -> tuple[bytes, np.ndarray]:
    values = np.zeros((8, 8, 2), np.uint8)
    values[:4, :, 1] = 255
    buffer = io.BytesIO()
    Image.fromarray(values, "LA").save(buffer, "PNG")
    expected = np.full((8, 8, 3), 255, np.uint8)
    expected[:4] = 0
    return buffer.getvalue(), expected


def png_16_bit() -> tuple[bytes, np.ndarray]:
    values = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return encoded(values, "PNG"), np.repeat(gray[..., None], 3, axis=2)


def png(depth: int, colour: int, rows: list[str], transparent: bytes) -> bytes:
    """A PNG of gray (colour 0) or RGB (2) values, given bit by bit, one of which is transparent."""
    width = len(rows[0]) // (depth * (3 if colour else 1))
    lines = b"".join(b"\0" + int(f"{row:0<{-(-len(row) // 8) * 8}}", 2).to_bytes(-(-len(row) // 8)) for row in rows)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    return _png([(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(lines))])


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_transparent_gray_is_white_at_any_depth(depth: int, share: float) -> None:
    most = (1 << depth) - 1
    transparent, values = round(share * most), [0, most, most // 2, round(share * most)]
    content = png(depth, 0, ["".join(f"{value:0{depth}b}" for value in values)] * 2, struct.pack(">H", transparent))
    expected = [255 if value == transparent else value * 255 / most for value in values]
    assert np.abs(pixels(store(content))[..., 0] - expected).max() <= 0.5


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_is_white_at_any_depth(depth: int) -> None:
    scale = ((1 << depth) - 1) // 255
    colours = [(0, 0, 0), (70, 50, 30), (255, 255, 255), (71, 50, 30)]
    row = "".join(f"{channel * scale:0{depth}b}" for colour in colours for channel in colour)
    content = png(depth, 2, [row], struct.pack(">HHH", *(channel * scale for channel in colours[1])))
    assert pixels(store(content))[0].tolist() == [[0, 0, 0], [255, 255, 255], [255, 255, 255], [71, 50, 30]]


def bilevel_png() -> tuple[bytes, np.ndarray]:
    dark = np.arange(64).reshape(8, 8) % 2 == 0
    expected = np.where(dark, 0, 255).astype(np.uint8)
    return encoded(~dark, "PNG"), np.repeat(expected[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (gray_jpeg, 3),
        (cmyk_jpeg, 6),
        (palette_png, 0),
        (transparent_palette_png, 0),
        (rgba_png, 0),
        (gray_alpha_png, 0),
        (png_16_bit, 0),
        (bilevel_png, 0),
        (lambda: (encoded(PICTURE, "BMP"), PICTURE), 0),
        (lambda: (encoded(PICTURE, "TIFF", compression="tiff_lzw"), PICTURE), 0),
        (lambda: (encoded(PICTURE, "WEBP", lossless=True), PICTURE), 0),
        (lambda: (encoded(PICTURE, "PPM"), PICTURE), 0),
    ],
)
def test_everything_becomes_rgb(make: object, tolerance: int) -> None:
    content, expected = make()
    stored = store(content)
    assert np.abs(pixels(stored).astype(int) - expected).max() <= tolerance
    converted = store(content, write_mode="passthrough")
    assert not converted.kept
    with Image.open(io.BytesIO(converted.data)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")


def test_downscaling_is_antialiased() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[::2] = 255
    for content in (encoded(stripes, "PNG"), encoded(stripes, quality=100)):
        small = pixels(store(content, max_resolution=50))
        assert small.shape == (50, 50, 3)
        assert np.abs(small.astype(int) - 127).max() < 12


def test_modes() -> None:
    content = encoded(PICTURE)
    assert store(content, write_mode="raw").mode == IMAGE_RAW
    assert store(content, write_mode="jpg").mode == IMAGE_JPEG
    assert not store(content, write_mode="jpg").kept
    assert store_image(content, options("proportion"), as_jpeg=True).mode == IMAGE_JPEG
    assert store_image(content, options("proportion"), as_jpeg=False).mode == IMAGE_RAW
    array = store_image(PICTURE, options("raw"), as_jpeg=False)
    np.testing.assert_array_equal(pixels(array), PICTURE)


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000)))])


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks."""
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg_stating(width: int, height: int, precision: int = 8) -> bytes:
    """A JPEG whose frame header states another size or precision."""
    content = bytearray(encoded(PICTURE))
    place = content.index(b"\xff\xc0") + 4
    struct.pack_into(">BHH", content, place, precision, height, width)
    return bytes(content)


BIG = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
WHOLE = encoded(BIG, quality=95)
HALF = len(WHOLE) // 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"just text, of no picture", "not an image"),
        (b"<html>404</html>" * 50, "not an image"),
        (WHOLE[:HALF], "truncated"),
        (WHOLE[:-2], "truncated"),
        (WHOLE[:100], "damaged|frame header"),
        (WHOLE[:3], "frame header"),
        (WHOLE[:HALF] + bytes(len(WHOLE) - HALF), "truncated|corrupt"),
        (encoded(PICTURE, "PNG")[:-400], "does not decode"),
        (encoded(PICTURE, "GIF")[:-1000], "does not decode"),
        (encoded(PICTURE, "WEBP")[:100], "does not decode|damaged header"),
        (png_header(60_000, 60_000), "over --max-pixels"),
        (png_header(100_000, 10), "a side is over 65,535"),
        (jpeg_stating(60_000, 60_000), "over --max-pixels"),
        (jpeg_stating(64, 0), "empty picture"),
        (jpeg_stating(64, 48, precision=12), "12 bits"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    ],
)
@pytest.mark.parametrize("write_mode", ["passthrough", "raw"])
def test_rejections_have_a_reason(content: bytes, reason: str, write_mode: WriteMode) -> None:
    with pytest.raises(BadImage, match=reason):
        store(content, write_mode=write_mode)


def test_bombs_take_no_memory() -> None:
    tracemalloc.start()
    for content in (png_header(60_000, 60_000), jpeg_stating(65_000, 65_000)):
        with pytest.raises(BadImage):
            store(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_holes_and_foreign_bytes_are_found() -> None:
    rng = np.random.default_rng(0)
    for patch in (bytes(512), rng.bytes(4096)):
        damaged = WHOLE[:HALF] + patch + WHOLE[HALF + len(patch) :]
        with pytest.raises(BadImage, match=r"truncated|corrupt|does not decode"):
            store(damaged, write_mode="passthrough")


def test_a_flawed_jpeg_that_is_whole_is_encoded_anew_and_says_so() -> None:
    stored = store(WHOLE[:-2] + b"\x12" * 30 + WHOLE[-2:], write_mode="passthrough")
    assert not stored.kept
    assert "extraneous bytes before marker 0xd9" in stored.flaw
    assert np.abs(pixels(stored).astype(int) - np.asarray(Image.open(io.BytesIO(WHOLE)))).mean() < 12
    assert store(WHOLE, write_mode="passthrough").flaw == ""


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_never_raises_anything_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]))
    content = bytearray(encoded(PICTURE, kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)))
    try:
        stored = store(bytes(content[:cut]), write_mode="passthrough")
    except BadImage:
        return
    assert stored.width > 0
    assert stored.height > 0
