"""What detection is told, which its models are told too."""

from __future__ import annotations

from vicreg.detection.settings import Settings as Config

__all__ = ["Config"]
