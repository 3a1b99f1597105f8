"""What the check lets pass, training decodes without a complaint; what it refuses has a reason; damage is named."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataprep.beton import jpeg_check
from dataprep.beton.jpeg_check import BadImage, flaw_of, read_jpeg_header
from dataprep.beton.jpeg_decoder import WheelJpeg
from dataprep.beton.turbojpeg import CMYK, GRAY, RGB, SUBSAMPLING_UNKNOWN, Jpeg, turbojpeg
from drills.jpeg_damage import DQT, END, PHOTOS, SOF, WAYS, encoded, picture, scan, segments

DECODERS = [
    pytest.param(Jpeg, marks=pytest.mark.skipif(turbojpeg() is None, reason="needs libturbojpeg")),
    WheelJpeg,
]


@pytest.fixture(autouse=True, scope="module", params=DECODERS, ids=["library", "wheel"])
def decoder(request: pytest.FixtureRequest) -> Iterator[type[Jpeg] | type[WheelJpeg]]:
    """All of this holds for each of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg_check, "jpeg_decoder", lambda: request.param)
        yield request.param


def judge(content: bytes) -> str:
    return flaw_of(content, read_jpeg_header(content))


def decode_as_training_does(content: bytes) -> np.ndarray:
    """RGB of a JPEG; a complaint of any kind is a failure of the test."""
    decoder = jpeg_check.jpeg_decoder()
    assert decoder is not None
    jpeg = decoder(content)
    header, complaint = jpeg.header()
    assert complaint is None
    pixels = np.zeros((header.height, header.width, 3), np.uint8)
    assert jpeg.pixels(pixels, RGB) is None
    return pixels


@pytest.mark.parametrize("name", PHOTOS)
def test_whole_photos_have_no_flaw(name: str) -> None:
    content = PHOTOS[name]
    assert judge(content) == ""
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode_as_training_does(content), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("size", [(1, 21), (21, 1), (7, 7)])
def test_pillow_checks_photos_of_few_pixels_too(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_check, "jpeg_decoder", lambda: None)
    file = io.BytesIO()
    Image.new("L", size).save(file, "JPEG")
    assert judge(file.getvalue()) == ""


@pytest.mark.parametrize("name", PHOTOS)
@given(share=st.floats(0.0, 0.97))
@settings(max_examples=25, deadline=None)
def test_a_photo_that_was_cut_and_closed_is_named(name: str, share: float) -> None:
    start, end = scan(PHOTOS[name])
    cut = start + int((end - start) * share)
    with pytest.raises(BadImage, match=r"premature end|missing SOS"):
        judge(PHOTOS[name][:cut] + END)


@given(photo=st.sampled_from(list(PHOTOS)), way=st.sampled_from(list(WAYS)), draw=st.randoms())
@settings(max_examples=400, deadline=None)
def test_what_passes_without_a_flaw_is_decoded_without_a_complaint(photo: str, way: str, draw: random.Random) -> None:
    content = WAYS[way](PHOTOS[photo], draw)
    try:
        header = read_jpeg_header(content)
        if header.width * header.height > 1 << 22 or header.precision_bits != 8:
            return  # refused before it is checked
        flaw = flaw_of(content, header)
    except BadImage:
        return
    if not flaw:
        decode_as_training_does(content)


def with_remark(content: bytes, remark: bytes) -> bytes:
    return content[:2] + remark + content[2:]


BAD_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x09\x01\x00\x00\x01\x00\x01\x00\x00"


def test_a_remark_that_is_complained_of_does_not_hide_what_follows() -> None:
    """Only the first complaint is told; the photo behind it may be cut."""
    content = PHOTOS["baseline"]
    start, end = scan(content)
    assert "JFIF revision" in judge(with_remark(content, BAD_JFIF))
    with pytest.raises(BadImage, match="premature end"):
        judge(with_remark(content[: (start + end) // 2] + b"\xff\xd9", BAD_JFIF))


def test_scan_statements_that_mean_nothing_are_a_flaw_and_hide_nothing() -> None:
    content = PHOTOS["baseline"]
    _, _, end = segments(content)[-1]
    odd = content[: end - 3] + b"\x00\x00\x00" + content[end:]
    assert "Invalid SOS parameters" in judge(odd)
    with pytest.raises(BadImage, match="premature end"):
        judge(odd[: len(odd) // 2] + b"\xff\xd9")


def test_tables_are_those_of_the_photo_itself() -> None:
    """A decompressor that is used again still has the tables of the photo before."""
    content = PHOTOS["baseline"]
    _, start, end = next(segment for segment in segments(content) if segment[0] in DQT)
    assert judge(content) == ""
    with pytest.raises(BadImage, match="Quantization table 0x00 was not defined"):
        judge(content[:start] + content[end:])


def test_stray_bytes_between_restarts_are_lost_data() -> None:
    content = PHOTOS["restarts"]
    place = content.index(b"\xff\xd0")
    with pytest.raises(BadImage, match="3 extraneous bytes before marker 0xd0"):
        judge(content[:place] + b"\x12\x34\x56" + content[place:])


def test_a_second_scan_of_the_same_is_refused() -> None:
    content = PHOTOS["baseline"]
    start = segments(content)[-1][1]
    with pytest.raises(BadImage, match="more than one scan"):
        judge(content[:-2] + content[start:])


def test_unusual_sampling_is_not_kept_where_training_cannot_name_it(
    decoder: type[Jpeg] | type[WheelJpeg],
) -> None:
    content = bytearray(encoded(picture(1, 8, 8), quality=90, subsampling="4:2:0"))
    _, start, _ = next(segment for segment in segments(bytes(content)) if segment[0] in SOF)
    assert content[start + 11] == 0x22
    for strange in (0x14, 0x31):  # four rows in one column for each colour sample, which the library names from 3.0 on
        content[start + 11] = strange
        is_named = decoder(bytes(content)).header()[0].subsampling != SUBSAMPLING_UNKNOWN
        assert (judge(bytes(content)) == "") == (is_named and strange == 0x14)  # the other one leaves bytes over


@pytest.mark.skipif(turbojpeg() is None, reason="needs libturbojpeg")
@pytest.mark.parametrize("name", PHOTOS)
def test_both_decoders_have_the_same_headers_pixels_and_complaints(name: str) -> None:
    """Also into rows that are padded; what they make up behind the cut is each one's own."""
    content = PHOTOS[name]
    start, end = scan(content)
    for photo in (content, content[: (start + end) // 2] + END):
        found = []
        for one in (Jpeg, WheelJpeg):
            header, complaint = one(np.frombuffer(photo, np.uint8)).header()
            assert complaint is None
            pixels = np.zeros((header.height + 1, header.width + 7, 3), np.uint8)
            eighth = np.zeros((-(-header.height // 8), -(-header.width // 8), 1), np.uint8)
            said = one(photo).pixels(pixels[: header.height, : header.width], RGB)
            found.append((header[:2], said, one(photo).pixels(eighth, GRAY), pixels, eighth))
        ours, theirs = found
        assert ours[:3] == theirs[:3]
        assert bool(ours[1]) == (photo != content)
        if photo == content:
            assert np.array_equal(ours[3], theirs[3])
            assert np.array_equal(ours[4], theirs[4])


def test_four_colours_are_checked_too(decoder: type[Jpeg] | type[WheelJpeg]) -> None:
    written = io.BytesIO()
    Image.new("CMYK", (32, 16), (10, 20, 30, 40)).save(written, "JPEG")
    content = written.getvalue()
    assert judge(content) == ""
    assert decoder(content).pixels(np.zeros((2, 4, 4), np.uint8), CMYK) is None
    start, end = scan(content)
    with pytest.raises(BadImage, match="premature end"):
        judge(content[: (start + end) // 2] + END)


def test_a_photo_of_very_many_scans_is_not_decoded(decoder: type[Jpeg] | type[WheelJpeg]) -> None:
    """A small file of thousands of scans would keep a machine busy for minutes."""
    content = PHOTOS["progressive"]
    last = content.rindex(b"\xff\xda")
    bomb = content[:last] + content[last:-2] * 600 + END
    complaint = decoder(bomb).pixels(np.zeros((120, 160, 3), np.uint8), RGB)
    assert complaint is not None
    assert complaint.fatal
    assert "scans" in complaint.reason
