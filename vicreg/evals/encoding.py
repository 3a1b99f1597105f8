"""A frozen encoder as evaluations run it: in half precision where that is asked for, compiled where that pays.

It stands apart from the features, because the linear protocol asks for those of augmented images, which nobody keeps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vicreg import kernels
from vicreg.config import Precision
from vicreg.half_precision import HALVES, autocast, dtype_of

log = logging.getLogger(__name__)

TIMED_CALLS = range(3, 8)
"""Numbers of the calls by which the encoder's speed is known."""
COMPILING_S = 60.0
SAVED_SHARE = 0.25
"""Of the forward pass, by compiling; both are what was seen of a ResNet-50's training step on an H100."""


class Encoding:
    """An encoder's features of images that are normalised already, as float32.

    In half precision the weights stay as they are and are cast in the pass (autocast), and images have their channels
    last, which convolutions follow. Compiled is only what a GPU computes in half precision: float32 keeps the
    arithmetic of the published programs, and on a CPU no bit depends on how long something takes.
    """

    def __init__(
        self, encoder: nn.Module, device: torch.device, precision: Precision = "auto", num_images: int = 0
    ) -> None:
        """num_images: how many are going to pass on this rank, as far as that is known."""
        weights = next((weight.dtype for weight in encoder.parameters()), torch.float32)
        self.dtype = weights if weights == torch.float64 else dtype_of(precision, device)
        """What it computes in."""
        self.is_half = self.dtype in HALVES
        self._input = weights
        self._device, self._left, self._calls = device, num_images, 0
        self._layout = torch.channels_last if self.is_half else torch.preserve_format
        self._encode: Callable[[Tensor], Tensor] = encoder.eval().to(device)
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._may_compile = device.type == "cuda" and self.is_half

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) to features (B, D), on the device."""
        self._calls += 1
        self._left -= len(images)
        if self._may_compile and self._calls in TIMED_CALLS:
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()
        images = images.to(self._input, memory_format=self._layout)
        with autocast(self._device, self.dtype):
            features = self._encode(images)
        if self._events and self._calls in TIMED_CALLS:
            self._events[-1][1].record()
        elif self._may_compile and self._calls == TIMED_CALLS.stop:
            self._compile_if_it_pays(len(images))
        return features.to(torch.float32)

    def _compile_if_it_pays(self, batch: int) -> None:
        self._may_compile = False
        torch.cuda.synchronize(self._device)
        seconds = min(before.elapsed_time(after) for before, after in self._events) / 1000
        left_s = seconds * self._left / batch
        if not compiling_pays(left_s):
            return
        try:
            kernels.require_executable_folder()
        except ValueError as error:
            log.warning("not compiled: %s", error)
            return
        log.info("compiling the encoder, which has %.0f s of work left; the first batches take a minute", left_s)
        self._encode = torch.compile(self._encode)


def compiling_pays(left_s: float) -> bool:
    """Whether what a compiled pass saves of so many seconds is more than compiling takes."""
    return left_s * SAVED_SHARE > COMPILING_S
