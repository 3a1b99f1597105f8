"""The centre of every image, for evaluations, cut out on a GPU: decoded once by threads, shipped as planes.

The weights are those of torch's antialiased bilinear kernel, and as there both passes end in whole numbers, so that the
result is that of `resize_centre_into` but for roundings: a level of 255 in a hundredth of the values, rarely two.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vicreg.config import DataConfig
from vicreg.data.batches import in_order
from vicreg.data.buffers import Buffers
from vicreg.data.decode import ImageReader
from vicreg.data.device_views import copied_ahead
from vicreg.data.other_views import Task
from vicreg.data.plane_batches import planes_job
from vicreg.data.planes import Planes
from vicreg.views.resample import DEVICE_BLOCK_BYTES, resized_shape

Shipped = tuple[NDArray[np.int64], Planes]


def centres_on_device(
    config: DataConfig, reader: ImageReader, samples: Sequence[int], device: torch.device, batch_size: int, workers: int
) -> Generator[tuple[Tensor, NDArray[np.int64]], None, None]:
    """Images (b, 3, S, S) uint8 on the device and their samples (b,), each once, in order; see `centre_batches`."""
    buffers = Buffers(pinned=device.type == "cuda")

    def jobs() -> Iterator[tuple[Shipped, list[Task]]]:
        for begin in range(0, len(samples), batch_size):
            part = np.asarray(samples[begin : begin + batch_size], np.int64)
            planes, tasks = planes_job(reader, buffers, part)
            yield (part, planes), tasks

    def copy(item: Shipped) -> Shipped:
        return item[0], item[1].to(device)

    def use(item: Shipped, stream: torch.cuda.Stream) -> None:
        item[1].record_stream(stream)

    with closing(in_order(jobs(), workers, config.batches_ahead)) as decoded:
        for part, planes in copied_ahead(decoded, copy, use, device):
            heights, widths = reader.beton.heights[part], reader.beton.widths[part]
            yield cut_centres(planes.rgb(), heights, widths, config.eval_resize, config.image_size), part


def cut_centres(
    images: Tensor, heights: NDArray[np.integer], widths: NDArray[np.integer], short_side: int, size: int
) -> Tensor:
    """uint8 (B, 3, size, size) of images (B, 3, H, W), each in the upper left of its place, on their device.

    Each is resized so that its shorter side has `short_side` pixels, then its centre is cut out.
    """
    count, device = len(images), images.device
    shapes = [resized_shape(int(height), int(width), short_side) for height, width in zip(heights, widths, strict=True)]
    resized = np.asarray(shapes, np.int64).reshape(count, 2)
    first = np.asarray([[round((side - size) / 2) for side in shape] for shape in shapes], np.int64).reshape(count, 2)
    sides = np.stack([heights, widths], axis=1).astype(np.int64)
    table = torch.from_numpy(np.stack([sides, resized, first])).to(device, non_blocking=True)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    out = torch.empty((count, 3, size, size), dtype=torch.uint8, device=device)
    height, width = images.shape[2:]
    block = max(1, DEVICE_BLOCK_BYTES // (3 * height * width * dtype.itemsize))
    for begin in range(0, count, block):
        part = slice(begin, begin + block)
        rows, columns = (
            _weights(table[:, part, axis], num_in, size).to(dtype) for axis, num_in in enumerate((height, width))
        )
        planes = images[part].to(dtype=dtype, memory_format=torch.contiguous_format)
        narrow = torch.bmm(planes.view(len(rows), 3 * height, width), columns.transpose(1, 2)).round_().clamp_(0, 255)
        channels = narrow.view(len(rows), 3, height, size).unbind(1)
        out[part] = torch.stack([torch.bmm(rows, channel) for channel in channels], 1).round_().clamp_(0, 255)
    return out


def _weights(table: Tensor, num_in: int, num_out: int) -> Tensor:
    """Weight of every input pixel in every output pixel (B, num_out, num_in), antialiased, bilinear.

    table (3, B): pixels of the image along this side, after resizing, and where the cut begins in them.
    """
    length, resized, first = table.to(torch.float32).view(3, -1, 1, 1)
    scale = length / resized
    places = torch.arange(num_out, device=length.device, dtype=torch.float32).view(1, -1, 1)
    pixels = torch.arange(num_in, device=length.device, dtype=torch.float32)
    distances = (pixels + 0.5 - (places + first + 0.5) * scale).div_(scale.clamp_min(1)).abs_()
    weights: Tensor = (1 - distances).clamp_min_(0).mul_(pixels < length)
    weights /= weights.sum(2, keepdim=True)
    return weights
