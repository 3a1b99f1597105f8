"""Photos as JPEG keeps them, brightness and colour at half the size, and as RGB again: on the GPU, bit for bit.

Stands apart from `decode.py` because this half of the decoder's work is the device's: a CPU that ships the planes saves
the enlargement of the colours and the conversion, an eighth of its time, and half of the bytes that it writes and that
are copied to the GPU. The arithmetic is libjpeg's in float32, which is exact here: no product reaches 2^24.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vicreg import kernels

BLOCK_BYTES = 1 << 28
"""RGB of a batch that is made at once, to bound the memory of the steps between."""
_UNIT = 65536  # of libjpeg's fixed-point arithmetic (jdcolor.c: SCALEBITS)
_RED_OF_CR, _BLUE_OF_CB, _GREEN_OF_CB, _GREEN_OF_CR = 91881, 116130, 22554, 46802  # 1.402, 1.772, 0.34414, 0.71414


@dataclass(frozen=True)
class Planes:
    """A batch of decoded images, each in the upper left of the batch's largest."""

    luma: Tensor
    """Brightness, uint8 (B, H, W); H and W are even."""
    chroma: Tensor
    """Cb and Cr, uint8 (B, 2, H / 2 + 1, W / 2 + 1); each image's last row and column stand there twice."""
    whole: dict[int, Tensor]
    """RGB, uint8 (h, w, 3), of the images (by their place in the batch) that are not kept as such planes."""

    def __len__(self) -> int:
        return len(self.luma)

    def to(self, device: torch.device, non_blocking: bool = True) -> Planes:
        """The same batch on `device`."""
        return Planes(
            self.luma.to(device, non_blocking=non_blocking),
            self.chroma.to(device, non_blocking=non_blocking),
            {place: image.to(device, non_blocking=non_blocking) for place, image in self.whole.items()},
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Tell torch's allocator that the batch, made on another stream, is used on this one."""
        for tensor in (self.luma, self.chroma, *self.whole.values()):
            tensor.record_stream(stream)

    def rgb(self) -> Tensor:
        """The batch as uint8 (B, 3, H, W), on its device; what lies outside an image is undefined."""
        own = kernels.load("vicreg.data.plane_kernels", self.luma.device)
        images: Tensor = own.rgb(self.luma, self.chroma) if own else _rgb_in_blocks(self.luma, self.chroma)
        for place, image in self.whole.items():
            images[place, :, : image.shape[0], : image.shape[1]] = image.permute(2, 0, 1)
        return images


def _rgb_in_blocks(luma: Tensor, chroma: Tensor) -> Tensor:
    count, height, width = luma.shape
    images = luma.new_empty((count, 3, height, width))
    block = max(1, BLOCK_BYTES // (3 * height * width * torch.float32.itemsize))
    for begin in range(0, count, block):
        part = slice(begin, begin + block)
        _to_rgb(luma[part], chroma[part], images[part])
    return images


def _to_rgb(luma: Tensor, chroma: Tensor, out: Tensor) -> None:
    """Fill `out` (b, 3, H, W) from luma (b, H, W) and chroma (b, 2, H / 2 + 1, W / 2 + 1); libjpeg's jdcolor.c."""
    colour = _doubled(chroma.to(torch.float32)) - 128
    cb, cr = colour.unbind(1)
    red = torch.floor((cr * _RED_OF_CR + _UNIT / 2) / _UNIT)
    green = torch.floor((cb * -_GREEN_OF_CB - cr * _GREEN_OF_CR + _UNIT / 2) / _UNIT)
    blue = torch.floor((cb * _BLUE_OF_CB + _UNIT / 2) / _UNIT)
    for channel, shift in enumerate((red, green, blue)):
        out[:, channel] = shift.add_(luma).clamp_(0, 255)


def _doubled(chroma: Tensor) -> Tensor:
    """Both sides doubled by weights of 3/4 and 1/4, (..., h + 1, w + 1) to (..., 2h, 2w); libjpeg's "fancy" jdsample.c.

    Sums are rounded once, at the end, up by 8/16 in even columns and by 7/16 in odd ones.
    """
    here, above, below = chroma[..., :-1, :], _shifted(chroma, -2), chroma[..., 1:, :]
    rows = torch.stack((3 * here + above, 3 * here + below), -2).flatten(-3, -2)
    here, before, after = rows[..., :-1], _shifted(rows, -1), rows[..., 1:]
    return torch.stack((3 * here + before + 8, 3 * here + after + 7), -1).flatten(-2).div_(16).floor_()


def _shifted(values: Tensor, dim: int) -> Tensor:
    """What stands before each value but the last; before the first stands itself."""
    length = values.shape[dim]
    return torch.cat((values.narrow(dim, 0, 1), values.narrow(dim, 0, length - 2)), dim)
