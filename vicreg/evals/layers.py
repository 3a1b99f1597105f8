"""What comes out of any layer of a trained network, not only of the last: an encoder that ends in a layer by its name.

The layers are those of the encoder as torch names them (`layer3`, `layer4.0.conv2`, `blocks.11`), and behind it the
expander's (`expander`, `expander.1`), which a run keeps in its checkpoints alone.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from border.text import suite_command
from vicreg import checkpoint
from vicreg.config import PretrainConfig
from vicreg.exchange.encoder_file import checksum, encoder_of, fill, load_encoder
from vicreg.model import build_model
from vicreg.one_branch import branch
from vicreg.run_files import encoder_path

EXPANDER = "expander"


class UpToLayer(nn.Module):
    """A network whose output is that of one of its layers, as one row for each image.

    A map (B, C, H, W) is averaged over its places, tokens (B, N, C) over the tokens. A layer that is used several
    times, as ReLU often is, counts as it was used last. ValueError for a name that no layer has, and for a layer whose
    output has no row for each image.
    """

    def __init__(self, network: nn.Module, layer: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        known = [name for name, _ in network.named_modules() if name]
        if layer not in known:
            tops = dict.fromkeys(name.split(".")[0] for name in known)
            raise ValueError(
                f"layer is {layer!r}, allowed: {', '.join(tops)}, or one inside, such as {max(known, key=len)}"
            )
        self.network, self.layer = network, layer
        self._seen: list[Tensor | None] = []
        network.get_submodule(layer).register_forward_hook(self._see)
        with torch.no_grad():
            device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
            self.num_features = self.eval()(torch.zeros(1, *image_shape, device=device)).shape[1]

    def _see(self, _module: nn.Module, _inputs: object, output: object) -> None:
        self._seen = [output if isinstance(output, Tensor) else None]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) to (B, num_features)."""
        self.network(images)
        output = self._seen.pop() if self._seen else None
        if output is None or output.ndim < 2 or len(output) != len(images):
            shape = "not a tensor, or not used" if output is None else f"of shape {tuple(output.shape)}"
            raise ValueError(
                f"layer is {self.layer!r}, whose output is {shape}; allowed: one with a row for each image"
            )
        if output.ndim == 4:
            return output.mean((2, 3))
        return output.mean(1) if output.ndim == 3 else output.flatten(1)


def open_network(run: Path, config: PretrainConfig, checkpoints: Path, layer: str = "", encoder: str = "") -> nn.Module:
    """A finished run's encoder of that name, up to a layer where one is named, in eval mode on the CPU.

    `checkpoints` is the run's folder of them. ValueError with what is allowed for what is not there.
    """
    encoder = "" if encoder == "a" else encoder
    model = branch(config.model, encoder)  # raises what it objects to
    network = load_encoder(encoder_path(run, encoder))
    if not layer:
        return network
    if layer.split(".")[0] == EXPANDER:
        path = _newest(run, checkpoints)
        if checksum(encoder_of(path, model, encoder)) != checksum(network):
            raise ValueError(
                f"{path} is not that of {encoder_path(run, encoder)}, so its expander does not belong to it"
            )
        network = nn.Sequential(OrderedDict(encoder=network, expander=_expander(path, config, encoder)))
    return UpToLayer(network.eval(), layer, (len(config.data.mean), *(config.data.image_size,) * 2))


def _newest(run: Path, checkpoints: Path) -> Path:
    there = checkpoint.list_checkpoints(checkpoints)
    if not there:
        raise ValueError(f"{run} keeps no checkpoint, and its expander would be in one; allowed: layers of the encoder")
    return there[-1]


def _expander(path: Path, config: PretrainConfig, encoder: str) -> nn.Module:
    """The expander behind an encoder, from a checkpoint."""
    prefix = f"{EXPANDER}_{encoder}." if encoder else f"{EXPANDER}."
    weights: dict[str, Tensor] = checkpoint.load(path)["method"]
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not own:
        raise ValueError(f"{path}: {config.method.name} has no expander; allowed: layers of the encoder")
    _, expander = build_model(branch(config.model, encoder))
    fill(expander, own, f"{path} does not fit the run's expander, {config.model.expander}")
    return expander


def require_encoder(run: Path) -> None:
    """ValueError with the cure where a run is not finished."""
    if not checkpoint.is_whole(encoder_path(run)):
        cure = suite_command("jobs/pretrain.py", "--run", run)
        raise ValueError(f"{run} has no whole {encoder_path(run).name}: it is not finished; go on with  {cure}")
