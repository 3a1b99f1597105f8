"""A trained encoder in Python: `vicreg.load("runs/x")` has encoder, transform and configuration, and embeds images.

An image is seen as `dataprep/write_ffcv.py folder` stores it with its usual options and as the evaluations measure it,
so its features are theirs, to the bit where it passes the encoder in the same batch.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from border.documents import read_json
from dataprep.beton.contract import IMAGE_RAW
from dataprep.beton.jpeg_check import BadImage
from dataprep.writing.channel_images import read_channels
from dataprep.writing.images import ImageOptions, store_image
from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.data.batches import in_order, split_tasks
from vicreg.data.loaders import default_workers
from vicreg.data.other_views import Task
from vicreg.evals.features import Splits, compute_features
from vicreg.evals.layers import open_network, require_encoder
from vicreg.sound_config import require_images
from vicreg.training.train import CHECKPOINTS
from vicreg.views.resample import resize_centre_into

CONFIG_FILE = "config.json"
AHEAD = 2  # batches that are read while one passes the encoder

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any]
"""A file, a picture of Pillow's, or pixels: uint8 (H, W, 3); (H, W, C), uint8 or uint16, where the encoder takes C
channels that are no RGB."""

_AS_WRITTEN = ImageOptions(write_mode="passthrough", max_resolution=None, quality=90, max_pixels=1 << 26)
_pillow = threading.Lock()  # whose check for bombs is one for all threads


class _RunFile(TypedDict):
    """What is read of a run's config.json."""

    pretrain: dict[str, Any]
    schema: NotRequired[int]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A finished run, ready to be used."""

    run: Path
    encoder: nn.Module
    """In eval mode on `device`: normalised images (B, C, S, S) in, features (B, encoder.num_features) out."""
    config: PretrainConfig
    """All that the run was told."""
    device: torch.device
    name: str = ""
    """Which of the run's encoders it is, where there are several."""
    _layers: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    @property
    def image_size(self) -> int:
        """Side in pixels of what the encoder sees."""
        return self.config.data.image_size

    def transform(self, image: ImageLike) -> Tensor:
        """An image as the encoder takes it, float32 (C, S, S) on the CPU; ValueError, naming it, for what is none."""
        pixels = self._frames(1)
        self._frame(pixels[0], image)
        return self._splits("", torch.device("cpu"), 1).normalise(pixels.permute(0, 3, 1, 2))[0]

    def pixels(self, image: ImageLike) -> NDArray[Any]:
        """An image as it is before it is framed, (H, W, C)."""
        require_images(self.config.model.sound, "TrainedModel.pixels")
        channels = self.config.model.channels
        return _channels_of(image, channels) if channels else _pixels_of(image)

    def _frames(self, count: int) -> Tensor:
        """Room for what the encoder sees of so many images (count, S, S, C)."""
        model = self.config.model
        dtype = torch.float32 if model.channels else torch.uint8
        return torch.empty((count, self.image_size, self.image_size, model.in_channels), dtype=dtype)

    @torch.no_grad()
    def embed(
        self, images: ImageLike | Iterable[ImageLike], layer: str = "", batch: int = Splits.batch, workers: int = 0
    ) -> NDArray[np.float32]:
        """Features (N, num_features) of images, in their order; one image counts as a list of one.

        layer: by its name in the encoder, or `expander`; empty: what the encoder gives. batch: images that pass at
        once. workers: threads that read; 0 for one per CPU core. ValueError, naming it, for an image that is none.
        """
        require_images(self.config.model.sound, "TrainedModel.embed")
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            images = [images]
        network = self.up_to(layer)
        dtype = next((weight.dtype for weight in network.parameters()), torch.float32)
        splits = self._splits("", self.device, 1)
        found = [
            network(splits.normalise(pixels.permute(0, 3, 1, 2)).to(dtype)).to(torch.float32).cpu().numpy()
            for pixels in in_order(self._jobs(images, batch), workers or default_workers(), AHEAD)
        ]
        width = network.num_features
        assert isinstance(width, int)
        return np.concatenate(found) if found else np.empty((0, width), np.float32)

    def embed_beton(self, beton: str | Path, layer: str = "", workers: int = 0) -> NDArray[np.float32]:
        """Features (N, num_features) of all images of a beton, in its order."""
        splits = self._splits(str(beton), self.device, workers or default_workers())
        values: NDArray[np.float32] = compute_features(self.up_to(layer), splits, "val").values.numpy()
        return values

    def up_to(self, layer: str) -> nn.Module:
        """The encoder, or the network that ends in a layer; see `UpToLayer`."""
        if not layer:
            return self.encoder
        if layer not in self._layers:
            network = open_network(self.run, self.config, self.run / CHECKPOINTS, layer, self.name)
            self._layers[layer] = network.to(self.device)
        return self._layers[layer]

    def _splits(self, beton: str, device: torch.device, workers: int) -> Splits:
        data = replace(self.config.data, train=beton, val=beton, on_bad="fail")
        return Splits(data, 0, device, workers)

    def _frame(self, out: Tensor, image: ImageLike) -> None:
        resize_centre_into(out, self.pixels(image), self.config.data.eval_resize)

    def _jobs(self, images: Iterable[ImageLike], batch: int) -> Iterator[tuple[Tensor, list[Task]]]:
        rest = iter(images)
        while part := tuple(islice(rest, batch)):
            pixels = self._frames(len(part))

            def fill(number: int, part: tuple[ImageLike, ...] = part, pixels: Tensor = pixels) -> None:
                self._frame(pixels[number], part[number])

            yield pixels, split_tasks(fill, len(part))


def load(run: str | os.PathLike[str], encoder: str = "", device: str | torch.device = "") -> TrainedModel:
    """The encoder of a finished or imported run. ValueError with the cure where there is none.

    encoder: which, where the run has several (b: the second branch's). device: empty for the GPU where there is one.
    """
    run = Path(run)
    if not (run / CONFIG_FILE).is_file():
        raise ValueError(f"{run} is no run folder (it has no {CONFIG_FILE})")
    content = read_json(run / CONFIG_FILE, _RunFile, "give a run folder of jobs/pretrain.py or jobs/import_encoder.py")
    config = methods.read_config(content["pretrain"], content.get("schema", 1))
    require_encoder(run)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = open_network(run, config, run / CHECKPOINTS, encoder=encoder)
    return TrainedModel(run, network.to(where).eval(), config, where, encoder)


def _channels_of(image: ImageLike, channels: int) -> NDArray[Any]:
    """Values (H, W, channels) of an image that is no RGB, uint8 or uint16."""
    if isinstance(image, str | os.PathLike):
        try:
            with _pillow:
                return read_channels(Path(image).read_bytes(), channels, _AS_WRITTEN.max_pixels)
        except BadImage as error:
            raise ValueError(f"{os.fspath(image)}: {error}") from error
    values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype not in (np.uint8, np.uint16) or values.ndim != 3 or values.shape[2] != channels:
        allowed = f"uint8 or uint16 (H, W, {channels})"
        raise ValueError(f"an image is {values.dtype} of shape {values.shape}, allowed: {allowed}")
    return np.ascontiguousarray(values)


def _pixels_of(image: ImageLike) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of an image as a beton would hold them."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image is {image.dtype} of shape {image.shape}, allowed: uint8 (H, W, 3)")
        return np.ascontiguousarray(image)
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB")).copy()
    content = Path(image).read_bytes()
    try:
        with _pillow:
            stored = store_image(content, _AS_WRITTEN, as_jpeg=True)
    except BadImage as error:
        raise ValueError(f"{os.fspath(image)}: {error}") from error
    if stored.mode == IMAGE_RAW:
        return np.frombuffer(stored.data, np.uint8).reshape(stored.height, stored.width, 3).copy()
    return np.asarray(Image.open(io.BytesIO(stored.data)).convert("RGB")).copy()
