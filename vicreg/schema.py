"""The form in which runs are written down, numbered, and how older forms become today's: the only place that knows.

A run folder's config.json, a checkpoint's state and encoder.pt bear the number; what has none is of form 1.
"""

from __future__ import annotations

from typing import Any

SCHEMA = 3
"""1: VICReg alone, with `loss`, `view_a` and `view_b`. 2: `method` (with its name) and a list of `views`. 3: the online
head has an optimizer of its own, so that a rate of before means nothing to it."""


def upgraded(values: dict[str, Any], schema: int) -> dict[str, Any]:
    """A run's configuration in JSON form as it would be written today; ValueError for that of a later version."""
    if schema > SCHEMA:
        raise ValueError(
            f"the configuration has form {schema}, allowed: 1 to {SCHEMA}; a newer version of this suite wrote it, "
            "and reads it"
        )
    if schema == SCHEMA:
        return values
    if schema == 1:
        rest = {name: value for name, value in values.items() if name not in ("loss", "view_a", "view_b")}
        views = [values[name] for name in ("view_a", "view_b")]
        values = rest | {"method": {"name": "vicreg"} | values["loss"], "views": views}
    online = {name: value for name, value in values.get("online", {}).items() if name != "lr"}
    return values | {"online": online}
