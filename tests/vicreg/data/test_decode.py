"""Decoding: Pillow's pixels exactly, close to FFCV's, and an error that names the sample where a file is damaged."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dataprep.beton import jpeg_decoder
from dataprep.beton.contract import Beton, manifest_path, open_beton
from dataprep.beton.turbojpeg import turbojpeg
from dataprep.sources import digits
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.vicreg.photos import ROOT, photos, write_photos
from vicreg.data import decode
from vicreg.data.decode import COMPARED_EVERY, DecodeError, ImageReader

NUM = 8


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("jpegs"), photos(NUM))


def _damaged(source: Path, folder: Path, sample: int, damage: str, with_manifest: bool = True) -> Beton:
    """A copy of a beton in which one JPEG's bytes are not those that were written."""
    content = bytearray(source.read_bytes())
    beton = open_beton(source)
    start, size = int(beton.pointers[sample]), int(beton.sizes[sample])
    if damage == "all":
        content[start : start + size] = bytes(size)
    elif damage == "data":
        content[start + size // 2 : start + size] = bytes(size - size // 2)
    else:  # another image, whole, but of another size
        other = next(i for i in range(NUM) if beton.sizes[i] < size and beton.widths[i] != beton.widths[sample])
        content[start : start + int(beton.sizes[other])] = beton.image_bytes(other).tobytes()
    target = folder / "damaged.beton"
    target.write_bytes(content)
    if with_manifest:
        manifest_path(target).write_bytes(manifest_path(source).read_bytes())
    return open_beton(target)


def test_pixels_are_pillows(jpegs: Path) -> None:
    beton = open_beton(jpegs)
    reader = ImageReader(beton)
    for sample in range(NUM):
        assert reader.shape(sample) == beton.decode(sample).shape[:2]
        assert np.array_equal(reader.read(sample), beton.decode(sample))


def test_rows_may_be_padded(jpegs: Path) -> None:
    beton = open_beton(jpegs)
    height, width = ImageReader(beton).shape(3)
    padded = np.full((height + 5, width + 7, 3), 77, np.uint8)
    ImageReader(beton).read_into(padded[:height, :width], 3)
    assert np.array_equal(padded[:height, :width], beton.decode(3))
    assert (padded[height:] == 77).all()
    assert (padded[:, width:] == 77).all()


def test_raw_samples(tmp_path: Path) -> None:
    beton = open_beton(write_photos(tmp_path, photos(3), "raw"))
    assert (beton.modes == 1).all()
    for sample in range(3):
        assert np.array_equal(ImageReader(beton).read(sample), beton.decode(sample))


def test_without_the_library_pillow_decodes(jpegs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_library = ImageReader(open_beton(jpegs))
    monkeypatch.setattr(decode, "jpeg_decoder", lambda: None)
    assert np.array_equal(ImageReader(open_beton(jpegs)).read(2), with_library.read(2))
    with pytest.raises(DecodeError, match=r"sample 5 cannot be used .*verify"):
        ImageReader(_damaged(jpegs, tmp_path, 5, "all")).read(5)


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert turbojpeg.__wrapped__() is None
    monkeypatch.setattr(jpeg_decoder, "turbojpeg", lambda: None)
    assert jpeg_decoder.jpeg_decoder.__wrapped__() is jpeg_decoder.WheelJpeg
    assert caplog.text == ""
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert jpeg_decoder.jpeg_decoder.__wrapped__() is None
    assert "Pillow checks and decodes" in caplog.text


def test_the_wheel_decodes_the_same(jpegs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_library = ImageReader(open_beton(jpegs))
    monkeypatch.setattr(decode, "jpeg_decoder", lambda: jpeg_decoder.WheelJpeg)
    reader = ImageReader(open_beton(jpegs))
    for sample in range(NUM):
        assert np.array_equal(reader.read(sample), with_library.read(sample))
    planes = np.zeros((500, 500), np.uint8), np.zeros((2, 251, 251), np.uint8)
    assert np.array_equal(reader.read_planes_into(*planes, 2), with_library.read(2))
    for damage in ("all", "data", "size"):
        with pytest.raises(DecodeError, match=r"sample 5 cannot be used .*verify"):
            ImageReader(_damaged(jpegs, tmp_path, 5, damage)).read(5)


def test_many_threads_share_a_reader(jpegs: Path) -> None:
    beton = open_beton(jpegs)
    reader = ImageReader(beton)
    expected = [beton.decode(sample) for sample in range(NUM)]

    def right(number: int) -> bool:
        return np.array_equal(reader.read(number % NUM), expected[number % NUM])

    with ThreadPoolExecutor(4) as executor:
        assert all(executor.map(right, range(200)))


@pytest.mark.parametrize("damage", ["all", "data", "size"])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_damage_is_an_error_that_names_file_sample_and_cure(
    jpegs: Path, tmp_path: Path, damage: str, with_manifest: bool
) -> None:
    sample = int(np.argmax(open_beton(jpegs).sizes))
    beton = _damaged(jpegs, tmp_path, sample, damage, with_manifest)
    reader = ImageReader(beton)
    with pytest.raises(DecodeError) as error:
        reader.read(sample)
    for part in (str(beton.path), f"sample {sample} ", error.value.reason, "write_ffcv.py verify"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert (error.value.beton, error.value.sample) == (beton.path, sample)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # noqa: S301
    intact = (sample + 1) % NUM
    assert np.array_equal(reader.read(intact), open_beton(jpegs).decode(intact))


def test_no_image_is_decoded_with_the_tables_of_the_one_before(jpegs: Path, tmp_path: Path) -> None:
    beton = open_beton(jpegs)
    content, stored = bytearray(jpegs.read_bytes()), beton.image_bytes(5).tobytes()
    place = stored.index(b"\xff\xdb") + 1
    content[int(beton.pointers[5]) + place] = 0xEF  # a remark instead of the quantization table
    path = tmp_path / "damaged.beton"
    path.write_bytes(content)
    reader = ImageReader(open_beton(path))
    reader.read(4)
    with pytest.raises(DecodeError, match="Quantization table 0x00 was not defined"):
        reader.read(5)


def test_flaws_that_were_there_when_written_are_only_warned_of(
    jpegs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same damage, but the manifest's checksum says that the writer took the image like this."""
    sample = int(np.argmax(open_beton(jpegs).sizes))
    beton = _damaged(jpegs, tmp_path, sample, "data")
    manifest = manifest_path(beton.path)
    old, new = (zlib.crc32(opened.image_bytes(sample).tobytes()) for opened in (open_beton(jpegs), beton))
    assert manifest.read_text().count(str(old)) == 1
    manifest.write_text(manifest.read_text().replace(str(old), str(new)))
    reader = ImageReader(beton)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(reader.read(sample), reader.read(sample))
    assert caplog.text.count(f"sample {sample} was written with a flaw") == 1


@pytest.mark.parametrize("write_mode", ["passthrough", "raw"])
@pytest.mark.parametrize("planes", [False, True])
def test_damage_that_decodes_is_found_by_the_checksums_of_some(tmp_path: Path, write_mode: str, planes: bool) -> None:
    path = write_photos(tmp_path, photos(NUM, 64), write_mode)
    content, beton = bytearray(path.read_bytes()), open_beton(path)
    content[int(beton.pointers[3]) + int(beton.sizes[3]) // 2] ^= 4
    path.write_bytes(content)
    reader, found = ImageReader(open_beton(path)), []
    luma, chroma = np.zeros((64, 64), np.uint8), np.zeros((2, 33, 33), np.uint8)
    for sample in [3, 2] * 16 * COMPARED_EVERY:
        try:
            reader.read_planes_into(luma, chroma, sample) if planes else reader.read(sample)
        except DecodeError as error:
            found.append((error.sample, error.reason))
    assert set(found) == {(3, "its bytes have changed since they were written")}


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_whole_sample_is_suspected(tmp_path: Path, multi_label: bool) -> None:
    """The checksum of a sample is also that of its label vector."""
    path = tmp_path / "val.beton"
    write_beton(digits.open_split("val", multi_label), path, WritePlan("jpg", limit=50), num_workers=0)
    reader = ImageReader(open_beton(path))
    for _ in range(COMPARED_EVERY):
        for sample in range(50):
            reader.read(sample)


def test_ffcv_is_not_imported(jpegs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dataprep.beton.contract import open_beton;"
        "from vicreg.data.decode import *;"
        f"ImageReader(open_beton(Path({str(jpegs)!r}))).read(0); sys.exit('ffcv' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.ffcv
def test_ffcv_decodes_nearly_the_same_from_its_own_files(tmp_path: Path) -> None:
    """FFCV takes the fast inverse DCT: at most 8 levels off, 1.5 on average."""
    from ffcv import fields
    from ffcv.libffcv import imdecode
    from ffcv.writer import DatasetWriter

    images = photos(4)

    class Samples:
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, sample: int) -> tuple[np.ndarray, int]:
            return images[sample], sample

    path = tmp_path / "ffcv.beton"
    columns = {"image": fields.RGBImageField(write_mode="jpg"), "label": fields.IntField()}
    DatasetWriter(str(path), columns, num_workers=1).from_indexed_dataset(Samples())
    beton = open_beton(path)
    assert beton.labels.tolist() == [0, 1, 2, 3]
    for sample in range(4):
        ours = ImageReader(beton).read(sample).astype(int)
        height, width, _ = ours.shape
        theirs = np.zeros((height, width, 3), np.uint8)
        imdecode(beton.image_bytes(sample), theirs, height, width, height, width, 0, 0, 1, 1, False, False)
        difference = abs(ours - theirs)
        assert difference.max() <= 8
        assert difference.mean() < 1.5
