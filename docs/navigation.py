"""The order of the site's pages, by task; what is not there is left out, a page that is not here fails the build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGES = {
    "First run": "index.md",
    "Your own images": "own-images.md",
    "Data": "data.md",
    "Your cluster": "cluster.md",
    "Methods": "methods.md",
    "Evaluations": "evaluations.md",
    "Modalities": "modalities.md",
    "Sweeps and the board": "sweeps.md",
    "Encoders in and out": "encoders.md",
    "Python API": "api.md",
    "Performance": "performance.md",
    "Reliability": "reliability.md",
    "Security": "security.md",
    "Architecture": "architecture.md",
}


def on_config(config: Any) -> Any:
    """mkdocs asks for the navigation before it looks at the pages."""
    there = {title: page for title, page in PAGES.items() if (Path(config["docs_dir"]) / page).is_file()}
    config["nav"] = [{title: page} for title, page in there.items()]
    return config
