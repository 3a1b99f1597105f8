"""Small raw data sets, made on the spot: what the tests of dataprep share."""

from __future__ import annotations

from pathlib import Path

from drills.jpeg_damage import encoded as encoded
from drills.jpeg_damage import picture as picture


def make_tree(root: Path, num_per_class: int = 6, classes: tuple[str, ...] = ("ant", "bee", "cow")) -> Path:
    """Class folders of JPEGs of different sizes."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for sample in range(num_per_class):
            seed = 100 * number + sample
            content = encoded(picture(seed, 40 + sample, 30 + number), quality=85)
            (root / name / f"{sample:03d}.jpg").write_bytes(content)
    return root
