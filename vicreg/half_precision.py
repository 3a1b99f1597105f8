"""Which arithmetic "auto" means on a device: bf16 where the card computes in it, fp16 where it does not.

Both run at the same speed on the same units. bf16 has the range of float32, so that gradients need no scaling; cards
before compute capability 8.0 (V100, T4) only emulate it, slower than float32.
"""

from __future__ import annotations

import functools
import logging

import torch

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
HALVES = (torch.bfloat16, torch.float16)
MIN_BF16_CAPABILITY = (8, 0)


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """The type that a named precision computes in; auto: the card's half precision, on a CPU float32."""
    if precision != "auto":
        return DTYPES[precision]
    return half_type(device) if device.type == "cuda" else torch.float32


@functools.cache
def half_type(device: torch.device) -> torch.dtype:
    """bf16, or fp16 on a card that has no bf16, which is said once."""
    capability = torch.cuda.get_device_capability(device)
    if capability >= MIN_BF16_CAPABILITY:
        return torch.bfloat16
    log.info("%s has no bf16: precision auto is fp16, with a scaler for gradients", torch.cuda.get_device_name(device))
    return torch.float16


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """torch's autocast to a half precision; for another type it does nothing."""
    half = dtype in HALVES
    return torch.autocast(device.type, dtype if half else torch.bfloat16, enabled=half)
