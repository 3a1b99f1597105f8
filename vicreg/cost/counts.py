"""What is counted of a method's networks, whatever the batch and the number of ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Norms:
    """Batch norms that cost the same, all passes together."""

    in_parts: bool
    """Whether micro-batches pass them one after the other: those of encoders that have a gradient."""
    has_gradient: bool
    num_layers: int
    num_channels: int


@dataclass(frozen=True)
class Sizes:
    """The networks of a method."""

    num_learned: int
    """Values of the parameters that have a gradient."""
    num_values: int
    """Of all parameters, and of buffers such as running statistics."""
    other_bytes: int
    """Of buffers that are no floating point."""
    norms: tuple[Norms, ...]


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations on a sample, all its views, forward and backward."""

    step: float
    encoders_again: float
    """What micro-batches add: the encoders once more, forward."""


@dataclass(frozen=True)
class Kept:
    """Bytes that are kept for the backward pass."""

    fixed: int
    """Of no image: weights cast to half precision, statistics of batch norm."""
    each: int
    """Of each image, all views through all networks."""
    each_encoder: int
    """The part of it that the encoders keep."""
    each_call: int
    """The part of that of the call of an encoder that keeps most."""
    each_features: int
    """Features of each image, all views."""

    def peak_bytes(self, rows: int, micro_batch: int) -> int:
        """Of a step on `rows` images, where encoders take `micro_batch` of them at once; 0: all."""
        if not 0 < micro_batch < rows:
            return self.fixed + rows * self.each
        behind = rows * (self.each - self.each_encoder)  # gone when the parts pass for the second time
        return self.fixed + 2 * rows * self.each_features + max(behind, micro_batch * self.each_call)
