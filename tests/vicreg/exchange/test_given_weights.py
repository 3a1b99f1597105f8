"""Weights to begin with: the encoder's and the expander's, in a method's copies too; kept in the run for good."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models
from torch import Tensor

from jobs import pretrain
from jobs.planning.run_folder import read_content
from vicreg import checkpoint, networks
from vicreg.config import ModelConfig, PretrainConfig
from vicreg.exchange.encoder_file import save_encoder, untrained_encoder
from vicreg.exchange.given_weights import beginning_of, keep, read_given, sha256_of
from vicreg.method import UNKNOWN_DATA
from vicreg.methods import byol, vicreg
from vicreg.model import begins_with, build_model
from vicreg.run_files import BEGINNING_FILE

NARROW = ModelConfig("resnet10-narrow", expander="16-16")


def _official(path: Path, model: ModelConfig) -> dict[str, Tensor]:
    """A checkpoint with the official program's names; returns its tensors."""
    torch.manual_seed(3)
    encoder, expander = build_model(model)
    content = {f"module.backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
    content |= {f"module.projector.{name}": tensor for name, tensor in expander.state_dict().items()}
    torch.save({"model": content, "epoch": 3}, path)
    return content


def test_encoder_and_expander_begin_with_a_file(tmp_path: Path) -> None:
    content = _official(tmp_path / "official.pth", NARROW)
    given = read_given(replace(NARROW, weights=str(tmp_path / "official.pth")))
    assert given.origin["sha256"] == sha256_of(tmp_path / "official.pth")
    assert given.said[-1] == "with its expander"
    keep(tmp_path / "run", given)
    (tmp_path / "official.pth").unlink()
    config = PretrainConfig(vicreg.Config(), model=NARROW)
    with begins_with(beginning_of(tmp_path / "run")):
        state = networks.build(config, UNKNOWN_DATA).state_dict()
    for name, tensor in content.items():
        own = name.replace("module.backbone", "encoder").replace("module.projector", "expander")
        assert torch.equal(state[own], tensor), own
    torch.manual_seed(0)
    plain = networks.build(config, UNKNOWN_DATA).state_dict()
    assert not torch.equal(plain["encoder.conv1.weight"], state["encoder.conv1.weight"])


def test_teachers_begin_with_them_too_and_the_rest_as_without(tmp_path: Path) -> None:
    content = _official(tmp_path / "official.pth", replace(NARROW, expander="8-8"))
    given = read_given(replace(NARROW, weights=str(tmp_path / "official.pth")))
    assert given.said[-1] == "its expander is another than 16-16, so that begins with random weights"
    config = PretrainConfig(byol.Config(), model=NARROW)
    torch.manual_seed(0)
    plain = networks.build(config, UNKNOWN_DATA).state_dict()
    torch.manual_seed(0)
    with begins_with(given.beginning):
        state = networks.build(config, UNKNOWN_DATA).state_dict()
    first = content["module.backbone.conv1.weight"]
    assert torch.equal(state["encoder.conv1.weight"], first)
    assert torch.equal(state["teacher.0.conv1.weight"], first)
    rest = [name for name in plain if not name.startswith(("encoder.", "teacher.0."))]
    assert rest
    assert all(torch.equal(plain[name], state[name]) for name in rest)


def test_published_weights_are_asked_for_by_the_encoders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torchvision.models.resnet18()
    known = torchvision.models.get_model_weights("resnet18").DEFAULT
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / Path(known.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    given = read_given(ModelConfig("resnet18", weights="torchvision"))
    assert torch.equal(given.beginning.encoder["conv1.weight"], network.conv1.weight)
    assert given.origin["source"] == "torchvision"
    with pytest.raises(ValueError, match="torchvision publishes no weights of resnet10-narrow"):
        read_given(replace(NARROW, weights="torchvision"))
    with pytest.raises(ValueError, match="timm publishes no weights of resnet10-narrow"):
        read_given(replace(NARROW, weights="timm"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"cannot be fetched from torchvision .*give their file with --model.weights"):
        read_given(ModelConfig("resnet18", weights="torchvision"))


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    torch.save(untrained_encoder(ModelConfig("resnet18"), 0).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"needed \(64, 3, 3, 3\)\nit fits with small_images False"):
        read_given(ModelConfig("resnet18", small_images=True, weights=str(tmp_path / "resnet18.pth")))
    with pytest.raises(ValueError, match=r"--model.encoder names the network that it was made with"):
        read_given(replace(NARROW, weights=str(tmp_path / "resnet18.pth")))
    with pytest.raises(ValueError, match=r"none.pth: no such file"):
        read_given(replace(NARROW, weights=str(tmp_path / "none.pth")))
    with pytest.raises(ValueError, match="allowed: none with an encoder_b of images"):
        replace(NARROW, weights="x", encoder_b="resnet18")
    with pytest.raises(ValueError, match="is not there, from which the run begins"):
        beginning_of(tmp_path)


def test_a_run_begins_with_them_and_goes_on_without_their_file(
    tmp_path: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rate of the first steps is so small that what it began with is still there."""
    model = ModelConfig("resnet10-narrow", small_images=True, expander="512-512-512")
    content = _official(tmp_path / "official.pth", model)
    run = tmp_path / "run"
    where = ["--recipe", "digits", "--run", str(run), "--model.weights", str(tmp_path / "official.pth")]
    where += [f"--data.{split}={digits_folder / split}.beton" for split in ("train", "val")]
    where += ["--data.image-size", "16", "--data.eval-resize", "16", "--train.global-batch", "1024"]
    where += ["--train.epochs", "1", "--optimizer.base-lr", "1e-12", "--optimizer.weight-decay", "0"]
    assert pretrain.main([*where, "--cluster", "local"]) == 0
    said = capsys.readouterr().out
    assert "official.pth: state dict (entry model, module.backbone. taken off the names), " in said
    assert "weights: with its expander" in said
    origin = read_content(run)["beginning"]
    assert origin["source"] == str(tmp_path / "official.pth")
    assert origin["sha256"] == sha256_of(tmp_path / "official.pth")
    state = checkpoint.load_newest(run / "checkpoints")
    assert state is not None
    weight = state["method"]["encoder.layer1.0.conv1.weight"]
    torch.testing.assert_close(weight, content["module.backbone.layer1.0.conv1.weight"], rtol=0, atol=1e-6)
    (tmp_path / "official.pth").unlink()
    for path in (run / "encoder.pt", *(run / "checkpoints").glob("*/*")):
        path.unlink()
    assert pretrain.main(["--run", str(run), "--cluster", "local"]) == 0
    assert json.loads((run / "config.json").read_text())["beginning"] == origin
    assert (run / BEGINNING_FILE).is_file()
    assert (run / "encoder.pt").is_file()


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("encoder", ["resnet10-narrow", "test_convnext"])
def test_weights_for_rgb_are_brought_to_other_channels(tmp_path: Path, encoder: str, channels: int) -> None:
    theirs = ModelConfig(encoder, expander="16-16")
    rgb = untrained_encoder(theirs, 3)
    torch.save(rgb.state_dict(), tmp_path / "rgb.pth")
    asked = replace(theirs, channels=channels, weights=str(tmp_path / "rgb.pth"))
    with pytest.raises(ValueError, match=rf"of 3 channels, and these have {channels}\n--model.weights-channels mean"):
        read_given(asked)
    given = read_given(replace(asked, weights_channels="mean"))
    stem = given.origin["channels"].split()[0]
    weight, found = rgb.state_dict()[stem].double().numpy(), given.beginning.encoder[stem].numpy()
    assert found.shape[1] == channels
    for filters, mine in zip(weight, found, strict=True):  # a loop of its own
        for channel in mine:
            np.testing.assert_allclose(channel, (filters[0] + filters[1] + filters[2]) / channels, rtol=1e-5, atol=1e-7)
    own = untrained_encoder(replace(theirs, channels=channels), 0).eval()
    own.load_state_dict(given.beginning.encoder)
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        seen, expected = own(grey.expand(-1, channels, -1, -1)), rgb.eval()(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


def test_weights_for_other_channels_come_to_rgb_too_and_what_fits_stays_as_it_is(tmp_path: Path) -> None:
    five = replace(NARROW, channels=5)
    encoder = untrained_encoder(five, 3)
    save_encoder(tmp_path / "encoder.pt", encoder, five, {})
    given = read_given(replace(NARROW, weights=str(tmp_path / "encoder.pt"), weights_channels="mean"))
    expected = encoder.conv1.weight.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 5 / 3
    torch.testing.assert_close(given.beginning.encoder["conv1.weight"], expected.detach())
    same = read_given(replace(five, weights=str(tmp_path / "encoder.pt"), weights_channels="mean"))
    assert torch.equal(same.beginning.encoder["conv1.weight"], encoder.conv1.weight)
    assert "channels" not in same.origin
    with pytest.raises(ValueError, match="weights_channels is 'mean', allowed: refuse without weights"):
        replace(NARROW, weights_channels="mean")
