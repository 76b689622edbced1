"""The recipes by name; ours are found by the folder of a finished build (`archnet:BACKEND:DIR`)."""

from __future__ import annotations

from side_by_side.recipe import Recipe
from side_by_side.recipes import nncf_openvino, onnx_runtime

RECIPES: tuple[Recipe, ...] = (*onnx_runtime.RECIPES, *nncf_openvino.RECIPES)


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        KeyError: there is none.
    """
    if name.startswith("archnet:"):
        from side_by_side.recipes.arch_net import recipe_of

        return recipe_of(name)
    return {recipe.name: recipe for recipe in RECIPES}[name]
