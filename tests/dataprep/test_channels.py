"""Betons of other images than RGB, by the command: what they say, what plain FFCV reads, and damage that is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataprep.beton.contract import BetonError, manifest_samples, open_beton, read_beton, read_manifest
from dataprep.beton.layout import DESCRIPTOR, HEADER
from dataprep.beton.manifest import channel_statistics
from dataprep.beton.pixel_format import RGB, channels_format
from dataprep.beton.verification import problems
from dataprep.write_ffcv import main
from tests import five_channels
from tests.dataprep.raw_images import encoded, picture

FIVE = channels_format(5, 16)
FFCV_LOADER = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.bytes import BytesDecoder
from ffcv.loader import Loader, OrderOption
numbers = {name: [IntDecoder()] for name in ("label", "index", "width", "height")}
pipelines = {"image": [BytesDecoder()], **numbers}
loader = Loader(sys.argv[1], 4, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False, pipelines=pipelines)
for images, *columns in loader:
    for image, label, index, width, height in zip(images, *columns):
        size = height.item() * width.item() * 5 * 2
        values = np.asarray(image)[:size].view("<u2").reshape(height.item(), width.item(), 5)
        print(label.item(), index.item(), *values.astype(int).sum((0, 1)))
"""


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton of 12 images of five channels."""
    return five_channels.write(tmp_path_factory.mktemp("five"), 16) / "train.beton"


def _originals(beton: Path) -> list[np.ndarray]:
    return [five_channels.image(int(Path(name).stem)) for name, _ in manifest_samples(beton)]


def test_every_value_comes_back_and_the_manifest_has_measured_them(five: Path) -> None:
    beton, images = open_beton(five), _originals(five)
    assert (beton.pixels, beton.num_samples, beton.labels.tolist()) == (FIVE, 12, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    for sample, image in enumerate(images):
        np.testing.assert_array_equal(beton.decode(sample), image)
    manifest = read_manifest(five)
    assert (manifest["channels"], manifest["bits"], manifest["fields"]["image"]) == (5, 16, "BytesField")
    shares = [image.reshape(-1, 5) / 65535 for image in images]
    mean = np.mean([share.mean(0) for share in shares], axis=0)  # every image counts alike
    std = np.sqrt(np.mean([(share**2).mean(0) for share in shares], axis=0) - mean**2)
    std[five_channels.MISSING] = 1  # of a channel that never changes
    stated = channel_statistics(five)
    assert stated is not None
    np.testing.assert_allclose(stated, [mean, std], rtol=1e-5)


def test_info_and_verify_know_them(five: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(five)]) == 0
    assert "5 channels of 16 bits" in capsys.readouterr().out
    assert main(["verify", str(five), "--decode"]) == 0


def test_any_number_of_workers_writes_the_same_bytes(five: Path, tmp_path: Path) -> None:
    root = five.parent / "images"
    arguments = ["folder", "--root", str(root), "--out", str(tmp_path), "--val-fraction", "0.25", "--num-workers", "2"]
    assert main(arguments) == 0
    assert (tmp_path / "train.beton").read_bytes() == five.read_bytes()


@pytest.mark.ffcv
@pytest.mark.slow
def test_plain_ffcv_reads_them(five: Path) -> None:
    from ffcv.reader import Reader

    reader, beton = Reader(str(five)), open_beton(five)
    assert reader.field_names == list(beton.field_names) == ["image", "label", "index", "width", "height"]
    np.testing.assert_array_equal(reader.metadata["f0"]["ptr"], beton.pointers)
    np.testing.assert_array_equal(reader.metadata["f0"]["size"], beton.sizes)
    np.testing.assert_array_equal(reader.metadata["f3"], beton.widths)
    np.testing.assert_array_equal(reader.metadata["f4"], beton.heights)


@pytest.mark.ffcv
@pytest.mark.slow
def test_plain_ffcv_loads_them(five: Path) -> None:
    command = [sys.executable, "-c", FFCV_LOADER, str(five)]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True).stdout.splitlines()
    beton = open_beton(five)
    assert len(lines) == beton.num_samples
    for sample, (line, image) in enumerate(zip(lines, _originals(five), strict=True)):
        label, _, *sums = map(int, line.split())
        assert label == beton.labels[sample]
        assert sums == image.astype(int).sum((0, 1)).tolist()


def test_what_is_not_alike_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    np.save(root / "a.npy", five_channels.image(0))
    np.save(root / "b.npy", five_channels.image(1)[..., :3])
    np.save(root / "c.npy", five_channels.image(2).astype(np.float32))
    (root / "d.jpg").write_bytes(encoded(picture(1)))
    arguments = ["folder", "--root", str(root), "--num-workers", "0"]
    assert main([*arguments, "--out", str(tmp_path / "five")]) == 0
    said = capsys.readouterr().out
    assert "1 samples of 5 channels of 16 bits without labels, 3 rejected" in said
    assert "rejected b.npy: shape 21 x 21 x 3 has no axis of 5 channels" in said
    assert "rejected c.npy: float32 values have no stated range, allowed: uint8 and uint16" in said
    assert "rejected d.jpg: 3 channels of 8 bits, in a data set of 5 channels of 16 bits" in said
    assert main([*arguments, "--out", str(tmp_path / "three"), "--channels", "3", "--on-bad", "fail"]) == 1
    assert main([*arguments, "--out", str(tmp_path / "three"), "--channels", "3"]) == 0
    beton = open_beton(tmp_path / "three" / "train.beton")
    assert (beton.pixels, beton.num_samples) == (channels_format(3, 16), 1)


def test_grey_is_rgb_unless_one_channel_is_asked_for(tmp_path: Path) -> None:
    for channels, pixels in (([], RGB), (["--channels", "1"], channels_format(1, 8))):
        out = tmp_path / f"digits{len(channels)}"
        assert main(["digits", "--out", str(out), "--limit", "20", "--num-workers", "0", *channels]) == 0
        assert open_beton(out / "train.beton").pixels == pixels
    rgb, grey = (open_beton(tmp_path / f"digits{number}" / "train.beton") for number in (0, 2))
    for sample in range(20):
        np.testing.assert_array_equal(rgb.decode(sample), np.repeat(grey.decode(sample), 3, axis=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--channels", "17"], "error: 17 channels, allowed: 1 to 16"),
        (["--channels", "0"], "error: 0 channels, allowed: 1 to 16"),
        (["--write-mode", "jpg"], "error: --write-mode is 'jpg', allowed: raw, for 5 channels of 16 bits"),
    ],
)
def test_what_cannot_be_asked_for(
    five: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    arguments = ["folder", "--root", str(five.parent / "images"), "--out", str(tmp_path), "--num-workers", "0"]
    assert main([*arguments, *options]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _damaged(five: Path, folder: Path, place: int, value: int) -> Path:
    content = bytearray(five.read_bytes())
    content[place] = value
    path = folder / five.name
    path.write_bytes(content)
    (folder / f"{five.name}.json").write_bytes(five.with_name(f"{five.name}.json").read_bytes())
    return path


def test_a_damaged_header_and_a_changed_value_are_found(five: Path, tmp_path: Path) -> None:
    arguments = HEADER.itemsize + int(DESCRIPTOR.fields["arguments"][1])
    for place, value in ((arguments, 17), (arguments + 1, 12), (arguments + 7, 1)):
        with pytest.raises(BetonError, match="its header does not say what its images are"):
            read_beton(_damaged(five, tmp_path, place, value))
    with pytest.raises(BetonError, match="samples have damaged metadata"):
        read_beton(_damaged(five, tmp_path, arguments, 4))
    found = list(problems(_damaged(five, tmp_path, int(open_beton(five).pointers[3]) + 5, 250)))
    assert [problem.kind for problem in found] == ["samples whose bytes have changed"]
