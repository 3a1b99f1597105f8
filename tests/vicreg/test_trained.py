"""A finished run in Python: its features are the evaluations' own, to the bit, and its import takes no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vicreg
from dataprep.beton.contract import open_beton
from dataprep.beton.manifest import manifest_samples
from jobs.planning.image_sets import ImageSet
from tests.dataprep.raw_images import encoded, picture
from tests.jobs.run_folders import digits_config, write_run
from vicreg.evals.features import compute_features, open_splits
from vicreg.trained import TrainedModel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> TrainedModel:
    run = tmp_path_factory.mktemp("runs") / "x"
    write_run(run, digits_config(digits_folder), "digits")
    return vicreg.load(run, device="cpu")


def test_the_import_is_quick() -> None:
    code = "import sys, vicreg; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_features_are_those_of_the_evaluations(model: TrainedModel) -> None:
    data = model.config.data
    expected = compute_features(model.encoder, open_splits(data, torch.device("cpu"), 1), "val").values.numpy()
    np.testing.assert_array_equal(model.embed_beton(data.val), expected)
    beton = open_beton(Path(data.val))
    pixels = [beton.decode(sample) for sample in range(beton.num_samples)]
    np.testing.assert_array_equal(model.embed(pixels, workers=1), expected)
    batch = torch.stack([model.transform(Image.fromarray(image)) for image in pixels[:128]])
    by_hand = model.encoder(batch.contiguous(memory_format=torch.channels_last))  # as decoded images lie in memory
    np.testing.assert_array_equal(by_hand.detach().numpy(), expected[:128])


def test_a_file_is_seen_as_its_beton_has_it(model: TrainedModel, tmp_path: Path) -> None:
    """Photos whose bytes are kept, photos that lie on their side, and what is no JPEG."""
    photos = tmp_path / "photos"
    photos.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(0, 40, 60)).save(photos / "kept.jpg", quality=80)
    Image.fromarray(picture(1, 40, 60)).save(photos / "turned.jpg", exif=turned)
    Image.fromarray(picture(2, 50, 30)).convert("RGBA").save(photos / "some.png")
    images = ImageSet.of(photos, tmp_path / "work")
    images.write(lambda _: None)
    names = [name for name, _ in manifest_samples(images.beton)]
    assert len(names) == 3
    expected = model.embed_beton(images.beton)
    np.testing.assert_array_equal(model.embed([photos / name for name in names]), expected)
    np.testing.assert_array_equal(model.embed(str(photos / names[0]), batch=1), model.embed([photos / names[0]]))


def test_layers_are_averages_over_places(model: TrainedModel, digits_folder: Path) -> None:
    images = torch.stack([model.transform(np.full((9, 12, 3), value, np.uint8)) for value in (0, 90, 255)])
    network = model.encoder
    expected = network.layer2(network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(images))))))
    found = model.embed([np.full((9, 12, 3), value, np.uint8) for value in (0, 90, 255)], layer="layer2")
    np.testing.assert_allclose(found, expected.mean((2, 3)).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert model.embed([], layer="layer2").shape == (0, found.shape[1])


def test_what_is_not_there_is_said(model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(encoded(picture(0))[:200])
    with pytest.raises(ValueError, match=r"no\.jpg: "):
        model.embed([tmp_path / "no.jpg"])
    with pytest.raises(ValueError, match=r"allowed: uint8 \(H, W, 3\)"):
        model.embed([np.zeros((4, 4), np.uint8)])
    with pytest.raises(ValueError, match=r"layer is .layer9., allowed: conv1, .*layer4"):
        model.embed([], layer="layer9")
    with pytest.raises(ValueError, match="keeps no checkpoint, and its expander would be in one"):
        model.embed([], layer="expander")
    with pytest.raises(ValueError, match="is no run folder"):
        vicreg.load(tmp_path)
    (tmp_path / "config.json").write_bytes((model.run / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"not finished; go on with  python jobs/pretrain.py --run "):
        vicreg.load(tmp_path)
    with pytest.raises(ValueError, match="encoder is 'b'"):
        vicreg.load(model.run, encoder="b")
