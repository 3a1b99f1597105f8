"""A ResNet's weights under detectron2's names, and back: its own files call the stages res2 to res5 behind a stem.

Source of the names: facebookresearch/moco, detection/convert-pretrain-to-detectron2.py, whose files detectron2 loads
with `matching_heuristics` (it puts its own prefix, backbone.bottom_up, before them).
"""

from __future__ import annotations

import re

from torch import Tensor

_TO = (
    (r"^(?!layer)", "stem."),
    (r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}"),
    (r"\bbn(\d)\b", r"conv\1.norm"),
    (r"\bdownsample\.0\b", "shortcut"),
    (r"\bdownsample\.1\b", "shortcut.norm"),
)
_FROM = (
    (r"^stem\.", ""),
    (r"^res(\d)", lambda found: f"layer{int(found[1]) - 1}"),
    (r"\bconv(\d)\.norm\b", r"bn\1"),
    (r"\bshortcut\.norm\b", "downsample.1"),
    (r"\bshortcut\b", "downsample.0"),
)
_KNOWN = re.compile(r"(stem\.conv1|res[2-5]\.\d+\.(conv[1-3]|shortcut))(\.norm)?\.\w+")


def to_detectron2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet's tensors by detectron2's names; ValueError for one that detectron2's has no place for."""
    named = {_renamed(name, _TO): tensor for name, tensor in state.items()}
    unknown = [name for name in named if not _KNOWN.fullmatch(name)]
    if unknown:
        raise ValueError(f"detectron2's ResNet has no place for {unknown[0]}")
    return named


def from_detectron2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The way back from `to_detectron2`."""
    return {_renamed(name, _FROM): tensor for name, tensor in state.items()}


def _renamed(name: str, rules: tuple[tuple[str, object], ...]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)  # type: ignore[call-overload]
    return name
