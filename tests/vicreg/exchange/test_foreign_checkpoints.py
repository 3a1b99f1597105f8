"""Foreign files: each form is recognised, its encoder taken exactly; what runs code or does not fit is refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from vicreg import checkpoint, networks
from vicreg.config import DataConfig, ModelConfig, PretrainConfig
from vicreg.config_json import to_json
from vicreg.exchange.encoder_file import checksum, save_encoder, untrained_encoder
from vicreg.exchange.foreign_checkpoints import put_into, read
from vicreg.method import UNKNOWN_DATA
from vicreg.methods import vicreg

GOLDEN = Path(__file__).parents[2] / "golden"
NARROW = ModelConfig("resnet10-narrow", expander="8-8")


def _official(part: str) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of the official program's encoder or expander."""
    shapes = json.loads((GOLDEN / f"official_{part}_keys.json").read_text())
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.zeros(shape, dtype=torch.int64)
        if name.endswith("num_batches_tracked")
        else torch.rand(shape, generator=generator) * 0.1
        for name, shape in shapes.get("params", shapes).items()
    }


def _encoder(name: str, small_images: bool = False) -> nn.Module:
    return untrained_encoder(ModelConfig(name, small_images), seed=9)


def exclude_bias_and_norm(parameter: Tensor) -> bool:
    """The official optimizer keeps such a function in its state."""
    raise AssertionError("a function of this name was called")


@pytest.mark.parametrize("module", ["__main__", "main_vicreg"])
def test_both_released_forms_give_the_same_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """The whole one names a function, which is neither needed nor there."""
    encoder, expander = _official("resnet50"), {"0.weight": torch.zeros(4, 4), "0.bias": torch.zeros(4)}
    optimizer = {"state": {0: {"mu": torch.zeros(3)}}, "param_groups": [{"weight_decay_filter": exclude_bias_and_norm}]}
    whole = {f"module.backbone.{name}": tensor for name, tensor in encoder.items()}
    whole |= {f"module.projector.{name}": tensor for name, tensor in expander.items()}
    torch.save(encoder, tmp_path / "resnet50.pth")
    with monkeypatch.context() as official:
        official.setattr(exclude_bias_and_norm, "__module__", module)
        official.setitem(sys.modules, module, sys.modules[__name__])
        torch.save({"epoch": 999, "model": whole, "optimizer": optimizer}, tmp_path / "model.pth")
    assert f"{module}.exclude_bias_and_norm" in get_unsafe_globals_in_checkpoint(tmp_path / "model.pth")
    bare, full = read(tmp_path / "resnet50.pth"), read(tmp_path / "model.pth")
    assert (bare.form, bare.left_out) == ("state dict", ())
    assert full.left_out == ("epoch", "optimizer")
    built = [_encoder("resnet50"), _encoder("resnet50")]
    of_bare, of_full = (put_into(into, weights, "") for into, weights in zip(built, (bare, full), strict=True))
    assert (of_bare.taken.place.said(), of_bare.dropped, of_bare.taken.expander) == ("", (), {})
    assert of_full.taken.place.said() == " (entry model, module.backbone. taken off the names)"
    assert (of_full.dropped, of_full.taken.left_out) == ((), ("projector (2 tensors)",))
    assert of_full.taken.expander.keys() == expander.keys()
    assert checksum(built[0]) == checksum(built[1])
    assert torch.equal(built[0].get_parameter("layer4.2.conv3.weight"), encoder["layer4.2.conv3.weight"])


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "googlenet", "squeezenet1_1", "mnasnet0_5"])
def test_a_torchvision_file_gives_torchvisions_features(tmp_path: Path, name: str) -> None:
    options = {"init_weights": True} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, **options).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder = _encoder(name)
    dropped = put_into(encoder, read(tmp_path / "weights.pth"), "").dropped
    assert {name.split(".")[0] for name in dropped} <= {"fc", "classifier", "aux1", "aux2"}
    seen: list[Tensor] = []
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    last.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network(images)
        expected = seen[0] if seen[0].ndim == 2 else seen[0].mean(dim=(2, 3))
        torch.testing.assert_close(encoder(images), expected)


@pytest.mark.parametrize("name", ["resnet18d", "test_vit"])
def test_a_timm_file_gives_timms_features(tmp_path: Path, name: str) -> None:
    network = timm.create_model(name, pretrained=False).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    encoder = _encoder(name)
    dropped = put_into(encoder, read(tmp_path / "weights.safetensors"), "").dropped
    assert sorted(dropped) == [f"{network.pretrained_cfg['classifier']}.{kind}" for kind in ("bias", "weight")]
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(encoder(images), expected)


def _in_sequence(name: str) -> str:
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    first, rest = name.split(".", 1)
    return f"{numbers[first]}.{rest}"


def _as_it_is(name: str) -> str:
    return name


@pytest.mark.parametrize(
    ("entry", "prefix", "rename", "others", "left_out"),
    [  # what the programs write: entry, prefix of the encoder, its names, what else there is
        ("state_dict", "module.encoder_q.", _as_it_is, ("module.encoder_k.conv1.weight", "module.queue"), "encoder_k"),
        ("state_dict", "module.encoder.", _as_it_is, ("module.predictor.0.weight",), "predictor"),
        ("online_backbone", "module.encoder.", _in_sequence, ("module.projetion.l1.weight",), "projetion"),
        ("online_network_state_dict", "encoder.", _in_sequence, ("projetion.net.0.weight",), "projetion"),
        ("state_dict", "", _as_it_is, (), ""),
        ("", "encoder.", _as_it_is, ("projector.0.weight", "projector.2.weight"), "projector (2 tensors)"),
        ("state_dict", "backbone.", _as_it_is, ("projector.0.weight", "classifier.weight"), "classifier"),
        ("state_dict", "backbone.", _in_sequence, ("projection_head.layers.0.weight",), "projection_head"),
        ("", "module.", _as_it_is, ("module.projection_head.0.weight", "module.prototypes.weight"), "prototypes"),
        ("model", "module.backbone.", _as_it_is, ("module.projector.0.weight", "module.bn.running_mean"), "projector"),
        ("model", "module.encoder.", _as_it_is, ("module.head.0.weight", "module.head_jig.fc1.weight"), "head_jig"),
        ("model", "module.encoder.", _as_it_is, ("module.head.0.weight",), "head"),
        ("classy_state_dict.base_model.model.trunk", "_feature_blocks.", _as_it_is, (), ""),
        ("state_dict", "encoder.", _as_it_is, ("momentum_encoder.conv1.weight", "projector.0.weight"), "projector"),
    ],
    ids=[
        "moco",
        "simsiam",
        "yaox12",
        "sthalles",
        "simclr-converter",
        "spijkervet",
        "solo-learn",
        "lightly",
        "swav",
        "barlow-twins",
        "infomin",
        "supcon",
        "vissl-pirl",
        "old-solo-learn",
    ],
)
def test_other_methods_files_give_their_encoder(
    tmp_path: Path, entry: str, prefix: str, rename: Callable[[str], str], others: tuple[str, ...], left_out: str
) -> None:
    encoder = _encoder("resnet18")
    content: dict[str, Any] = {prefix + rename(name): tensor for name, tensor in encoder.state_dict().items()}
    if not rename("conv1.weight")[0].isdigit():
        content |= {f"{prefix}fc.0.weight": torch.zeros(4, 512), f"{prefix}fc.2.weight": torch.zeros(4, 4)}
    content |= {name: torch.zeros(2) for name in others}
    for name in reversed(entry.split(".") if entry else []):
        content = {name: content, "epoch": 9}
    torch.save(content, tmp_path / "file.pth")
    weights = read(tmp_path / "file.pth")
    into = untrained_encoder(ModelConfig("resnet18"), seed=1)
    filled = put_into(into, weights, "")
    assert all(name.startswith("fc.") for name in filled.dropped)
    assert checksum(into) == checksum(encoder)
    assert any(left_out in said for said in (*filled.taken.left_out, ""))


@pytest.mark.parametrize("prefix", [
    "_orig_mod.", "module.", "module._orig_mod.", "encoder.", "model.", "backbone.", "student.", "module.encoder_q.",
    "model._orig_mod.backbone.", "student.module.backbone.", "net.0.trunk.", "any.name.that.nobody.has.heard.of.",
])  # fmt: skip
@pytest.mark.parametrize(
    ("entry", "rename"),
    [
        ("", _as_it_is),
        ("", _in_sequence),
        ("state_dict", _as_it_is),
        ("model.state_dict", _in_sequence),
        ("ema.module", _as_it_is),
        ("teacher", _as_it_is),
        ("some.other", _as_it_is),
    ],
)
def test_any_prefix_in_any_entry_is_taken_off(
    tmp_path: Path, entry: str, prefix: str, rename: Callable[[str], str]
) -> None:
    encoder = _encoder("resnet10-narrow")
    content: dict[str, Any] = {prefix + rename(name): tensor for name, tensor in encoder.state_dict().items()}
    for part in reversed([part for part in entry.split(".") if part]):
        content = {part: content, "epoch": 1}
    torch.save(content, tmp_path / "file.pth")
    into = untrained_encoder(ModelConfig("resnet10-narrow"), seed=1)
    filled = put_into(into, read(tmp_path / "file.pth"), "")
    assert checksum(into) == checksum(encoder)
    assert prefix in filled.taken.place.said()
    assert entry in filled.taken.place.said()


def _two(first: str, second: str) -> tuple[dict[str, Any], nn.Module, nn.Module]:
    """A checkpoint with two networks, and these; what stands before "/" is an entry."""
    networks = [untrained_encoder(NARROW, seed) for seed in (1, 2)]
    content: dict[str, Any] = {}
    for place, network in zip((first, second), networks, strict=True):
        entry, _, prefix = place.rpartition("/")
        into = content.setdefault(entry, {}) if entry else content
        into |= {prefix + name: tensor for name, tensor in network.state_dict().items()}
    return content, networks[0], networks[1]


@pytest.mark.parametrize(
    ("taken", "other", "part"),
    [
        ("state_dict_ema/", "state_dict/", ""),
        ("model_ema/module.", "model/module.", ""),
        ("state_dict/ema_model.", "state_dict/model.", ""),
        ("ema.backbone.", "backbone.", ""),
        ("state_dict/", "state_dict_ema/", "state_dict"),
        ("state_dict/module.encoder_q.", "state_dict/module.encoder_k.", ""),
        ("state_dict/backbone.", "state_dict/momentum_backbone.", ""),
        ("state_dict/momentum_backbone.", "state_dict/backbone.", "momentum"),
        ("student/module.backbone.", "teacher/backbone.", "student"),
        ("teacher/backbone.", "student/module.backbone.", "teacher"),
        ("model/teacher.backbone.", "model/student.backbone.", "teacher"),
        ("model/teacher.backbone.", "model/student.backbone.", "model.teacher.backbone"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_networks_the_meant_one_is_taken(
    tmp_path: Path, taken: str, other: str, part: str, turned: bool
) -> None:
    content, first, second = _two(*((other, taken) if turned else (taken, other)))
    torch.save(content, tmp_path / "file.pth")
    into = untrained_encoder(NARROW, seed=3)
    filled = put_into(into, read(tmp_path / "file.pth"), "", part)
    assert checksum(into) == checksum(second if turned else first)
    assert bool(filled.taken.note) == (not part)


def test_student_or_teacher_is_asked_for(tmp_path: Path) -> None:
    content, _, _ = _two("student/module.backbone.", "teacher/backbone.")
    torch.save(content, tmp_path / "file.pth")
    weights = read(tmp_path / "file.pth")
    with pytest.raises(
        ValueError, match=r"file: it holds a student and a teacher; choose one: student.module.backbone, "
    ):
        put_into(_encoder("resnet10-narrow"), weights, "file")
    with pytest.raises(ValueError, match=r"'ema' names none of the networks that are there; allowed: student.module"):
        put_into(_encoder("resnet10-narrow"), weights, "file", "ema")
    with pytest.raises(ValueError, match="'backbone' names 2 of the networks"):
        put_into(_encoder("resnet10-narrow"), weights, "file", "backbone")
    torch.save(_two("left.", "right.")[0], tmp_path / "file.pth")
    with pytest.raises(ValueError, match="it holds 2 networks with these names and shapes; choose one: left, right"):
        put_into(_encoder("resnet10-narrow"), read(tmp_path / "file.pth"), "file")


def test_what_differs_is_said_behind_what_was_taken_off(tmp_path: Path) -> None:
    """Never the network's name because of a prefix: names are compared without it."""
    content = {f"module._orig_mod.{name}": tensor for name, tensor in _encoder("resnet18").state_dict().items()}
    torch.save({"state_dict": content}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="of another shape") as raised:
        put_into(_encoder("resnet10-narrow"), read(tmp_path / "file.pth"), "file.pth does not fit")
    said = str(raised.value).splitlines()
    assert said[0] == "file.pth does not fit (entry state_dict, module._orig_mod. taken off the names):"
    assert said[1].startswith("  unexpected (48): layer1.1.conv1.weight, ")
    torch.save({"a.kernel": torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(
        ValueError, match=r"under no prefix has it names such as conv1.weight, bn1.weight; it has a.kernel"
    ):
        put_into(_encoder("resnet10-narrow"), read(tmp_path / "file.pth"), "file.pth")


def test_an_encoder_inside_of_a_network_is_no_prefix(tmp_path: Path) -> None:
    """torchvision's ViTs call their blocks so."""
    encoder = _encoder("vit_b_32")
    torch.save(encoder.state_dict(), tmp_path / "vit.pth")
    assert put_into(encoder, read(tmp_path / "vit.pth"), "").taken.place.said() == ""


def test_old_densenet_files_have_other_names_and_no_counters(tmp_path: Path) -> None:
    network = torchvision.models.densenet121(weights=None)
    old = {
        name.replace(".norm1.", ".norm.1.").replace(".norm2.", ".norm.2.").replace(".conv1.", ".conv.1.")
        .replace(".conv2.", ".conv.2."): tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }  # fmt: skip
    torch.save(old, tmp_path / "densenet121.pth")
    encoder = _encoder("densenet121")
    filled = put_into(encoder, read(tmp_path / "densenet121.pth"), "")
    assert filled.dropped == ("classifier.weight", "classifier.bias")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_our_own_files_name_their_encoder_and_their_images(tmp_path: Path) -> None:
    config = PretrainConfig(vicreg.Config(), model=NARROW, data=DataConfig(image_size=32, eval_resize=32))
    method = networks.build(config, UNKNOWN_DATA)
    save_encoder(tmp_path / "encoder.pt", method.encoder, config.model, {"config": to_json(config), "step": 5})
    state = {"method": method.state_dict(), "optimizer": {}, "step": 5, "config": to_json(config)}
    folder = checkpoint.save(tmp_path / "checkpoints", 5, state, keep=1)
    for path in (tmp_path / "encoder.pt", folder, folder / "state.pt"):
        weights = read(path)
        assert weights.model == config.model
        assert weights.data == to_json(config.data)
        encoder = untrained_encoder(config.model, seed=1)
        assert put_into(encoder, weights, "").dropped == ()
        assert checksum(encoder) == checksum(method.encoder)
    assert weights.form == "checkpoint of this suite, step 5"
    assert weights.left_out == ("optimizer",)
    (folder / "state.pt").write_bytes(b"x" * (folder / "state.pt").stat().st_size)
    with pytest.raises(ValueError, match="SHA-256"):
        read(folder)


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-was-run",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate(({"model": _Malicious()}, _Malicious(), torchvision.models.resnet18())):
        path = Path(f"{number}.pth")
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"without running code from it \(it asks for \S+\), "):
            read(path)
    assert not Path("it-was-run").exists()
    torch.load("0.pth", weights_only=False)
    assert Path("it-was-run").exists()  # it would have been


def _junk(path: Path) -> None:
    path.write_bytes(b"hello, this is no checkpoint")


def _half(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (lambda path: None, "none.pth", "none.pth: no such file"),
        (lambda path: path.mkdir(), "run", "run is a folder, allowed: .*encoder.pt of a run"),
        (_junk, "junk.pth", "junk.pth is no file of torch's, or it is damaged"),
        (_half, "half.pth", "half.pth is no file of torch's, or it is damaged"),
        (_junk, "junk.safetensors", "junk.safetensors is no safetensors file, or it is damaged"),
        (lambda path: torch.save([1, 2], path), "list.pth", "list.pth holds a list, allowed: a state dict"),
        (lambda path: torch.save({"a": 1}, path), "numbers.pth", "numbers.pth has no tensors, only a; allowed"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, write: Callable[[Path], None], name: str, message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_a_part_of_an_encoder_is_refused(tmp_path: Path) -> None:
    part = _official("resnet50")
    del part["conv1.weight"]
    part["neck.weight"] = torch.zeros(1)
    part["bn1.bias"] = torch.zeros(32)
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="it does not fit") as raised:
        put_into(_encoder("resnet50"), read(tmp_path / "part.pth"), "it does not fit")
    assert str(raised.value).splitlines()[1:] == [
        "  missing (1): conv1.weight",
        "  unexpected (1): neck.weight",
        "  of another shape (1): bn1.bias is (32,), needed (64,)",
    ]
