"""What the help of pretraining says of a recipe, above its options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.planning import recipes
from jobs.planning.command_line import options
from vicreg import methods
from vicreg.config_json import to_json
from vicreg.view_config import ViewConfig


def describe(name: str, views: Sequence[ViewConfig]) -> str:
    """The recipe, which others there are, and what its views behind the first have, as only that one's options follow.

    A paragraph, of which the lines behind the first are indented.
    """
    recipe = recipes.recipe(name)
    lines = [
        f"Recipe {name}: {recipe.source}.",
        f"Expected: {recipe.expected}.",
        f"Recipes: {', '.join(recipes.RECIPES)}; {recipes.AUTO}, which looks at your images.",
        f"Methods: {', '.join(methods.names())}.",
        *other_views(views),
    ]
    return "\n  ".join(lines)


def other_views(views: Sequence[ViewConfig]) -> Iterator[str]:
    """Which options the views behind the first have, a line for each."""
    first = dict(options(to_json(views[0])))
    for number, view in enumerate(views[1:], 1):
        differing = [f"{name} {value}" for name, value in options(to_json(view)) if value != first[name]]
        where = f", of which differ: {', '.join(differing)}" if differing else ""
        yield f"--views.{number}: the same options and values as --views.0{where}."
