"""The recipes by name; ours are found by the folder of a finished build (`archnet:BACKEND:DIR`)."""

from __future__ import annotations

from side_by_side.recipe import Recipe
from side_by_side.recipes import aimet, esp_ppq, nncf_openvino, onnx_runtime, onnx_simplifier

RECIPES: tuple[Recipe, ...] = (
    *onnx_runtime.RECIPES,
    *nncf_openvino.RECIPES,
    *onnx_simplifier.RECIPES,
    *aimet.RECIPES,
    *esp_ppq.RECIPES,
)


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        KeyError: there is none.
    """
    if name.startswith("archnet:"):
        from side_by_side.recipes.arch_net import recipe_of

        return recipe_of(name)
    return {recipe.name: recipe for recipe in RECIPES}[name]
