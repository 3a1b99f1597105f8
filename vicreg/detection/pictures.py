"""Some validation images with what was found in them and what is there: small JPEGs, masks blended in, boxes beside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.contract import Beton
from dataprep.beton.objects import decode_mask
from vicreg.detection.objects_found import Detections

NUM_PICTURES = 8
LONGEST_PX = 320
MIN_SCORE = 0.5
MAX_OBJECTS = 20
QUALITY = 75
_COLOURS = np.array(
    [[230, 60, 50], [50, 110, 230], [40, 160, 80], [240, 160, 30], [150, 70, 200], [0, 170, 190], [200, 80, 140]]
)
_SHARE = 0.5  # of a mask's colour in its pixels


def show(beton: Beton, found: Detections, true: Detections, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of some images, evenly over the beton, JSON-able: sample, size, and a picture of the found and of the true.

    Each picture has a JPEG (base64) and its objects, best first: box in the JPEG's pixels, name, score.
    """
    places = np.linspace(0, beton.num_samples - 1, min(NUM_PICTURES, beton.num_samples)).astype(np.int64)
    shown = []
    for sample in places.tolist():
        pixels = beton.decode(sample)
        scale = min(1.0, LONGEST_PX / max(pixels.shape[:2]))
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        sure = (found.samples == sample) & (found.scores >= MIN_SCORE)
        parts = {"found": found.of(sure), "true": true.of(true.samples == sample)}
        pictures = {name: _picture(pixels, size, part, names) for name, part in parts.items()}
        shown.append({"sample": sample, "width": size[0], "height": size[1], **pictures})
    return shown


def _picture(
    pixels: NDArray[np.uint8], size: tuple[int, int], objects: Detections, names: Sequence[str]
) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    order = np.argsort(-objects.scores, kind="stable")[:MAX_OBJECTS].tolist()
    blended = pixels.astype(np.float32)
    for number in reversed(order if objects.masks is not None else []):
        assert objects.masks is not None
        inside = decode_mask(objects.masks[number], height, width) == 1
        colour = _COLOURS[int(objects.classes[number]) % len(_COLOURS)]
        blended[inside] = (1 - _SHARE) * blended[inside] + _SHARE * colour
    small = Image.fromarray(blended.round().astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    small.save(buffer := io.BytesIO(), "JPEG", quality=QUALITY)
    scale = np.array([size[0] / width, size[1] / height] * 2)
    boxes = (objects.boxes * scale).round(1).tolist()
    kinds, scores = objects.classes.tolist(), objects.scores.round(3).tolist()
    listed = [{"box": boxes[k], "name": names[kinds[k]], "class": kinds[k], "score": scores[k]} for k in order]
    return {"jpeg": base64.b64encode(buffer.getvalue()).decode("ascii"), "objects": listed}
