"""The suite's own encoder file: what is written is loaded, by exactly the same names and shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vicreg.config import ModelConfig
from vicreg.exchange.encoder_file import checksum, fill, load_encoder, save_encoder, untrained_encoder


@pytest.mark.parametrize("name", ["resnet10-narrow", "mnasnet0_5", "squeezenet1_1", "test_vit"])
def test_a_saved_encoder_is_loaded(tmp_path: Path, name: str) -> None:
    """MNASNet among them, whose load_state_dict refuses dictionaries that are not its own."""
    config = ModelConfig(encoder=name)
    encoder = untrained_encoder(config, seed=3)
    save_encoder(tmp_path / "encoder.pt", encoder, config, {})
    loaded = load_encoder(tmp_path / "encoder.pt")
    assert checksum(loaded) == checksum(encoder) != checksum(untrained_encoder(config, seed=4))
    assert loaded.num_features == encoder.num_features
    assert not loaded.training


def test_an_encoder_of_five_channels_is_loaded_and_is_none_of_three(tmp_path: Path) -> None:
    config = ModelConfig("resnet10-narrow", channels=5)
    encoder = untrained_encoder(config, seed=3)
    save_encoder(tmp_path / "encoder.pt", encoder, config, {})
    assert checksum(load_encoder(tmp_path / "encoder.pt")) == checksum(encoder)
    with pytest.raises(ValueError, match=r"conv1.weight is \(16, 5, 7, 7\), needed \(16, 3, 7, 7\)"):
        fill(untrained_encoder(ModelConfig("resnet10-narrow"), 0), encoder.state_dict(), "it does not fit")


def test_a_file_that_does_not_fit_its_description_is_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder.pt", untrained_encoder(ModelConfig("resnet18"), 0), ModelConfig("resnet34"), {})
    with pytest.raises(
        ValueError, match=r"does not fit its own description:\n  missing \(96\): layer1\.2\.conv1\.weight"
    ):
        load_encoder(tmp_path / "encoder.pt")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "encoder.pt").write_bytes(b"no encoder")
    with pytest.raises(
        ValueError, match=r"is no file of torch's, or it is damaged; allowed: encoder.pt of a run folder"
    ):
        load_encoder(tmp_path / "encoder.pt")


def test_differences_are_listed_by_kind_and_nothing_is_copied() -> None:
    layer = nn.Linear(3, 2)
    before = checksum(layer)
    weights = {"weight": torch.zeros(2, 4), **{f"extra{i}": torch.zeros(1) for i in range(12)}}
    with pytest.raises(ValueError, match="complaint") as raised:
        fill(layer, weights, "complaint")
    assert str(raised.value).splitlines() == [
        "complaint:",
        "  missing (1): bias",
        f"  unexpected (12): {', '.join(f'extra{i}' for i in range(10))}, ...",
        "  of another shape (1): weight is (2, 4), needed (2, 3)",
    ]
    assert checksum(layer) == before
    fill(layer, {"weight": torch.ones(2, 3, dtype=torch.float16), "bias": torch.zeros(2)}, "complaint")
    assert layer.weight.dtype == torch.float32
    assert bool((layer.weight == 1).all())
