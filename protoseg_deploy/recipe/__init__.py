"""Recipes: everything that decides a run, as strict YAML."""

from protoseg_deploy.recipe.classes import ClassTable, class_table
from protoseg_deploy.recipe.loading import (
    differing_keys,
    dump_recipe,
    find_recipe,
    load_recipe,
    read_recipe_text,
    recipe_from_dict,
    value_of,
)
from protoseg_deploy.recipe.schema import (
    Color,
    Data,
    Distill,
    Features,
    ImageFolder,
    LabeledFolder,
    Method,
    Model,
    Ohem,
    Prototypes,
    Recipe,
    Train,
    scale_ratio,
)
from protoseg_deploy.recipe.shipped import shipped_folder, shipped_recipe_names, shipped_recipe_path

__all__ = [
    "ClassTable",
    "Color",
    "Data",
    "Distill",
    "Features",
    "ImageFolder",
    "LabeledFolder",
    "Method",
    "Model",
    "Ohem",
    "Prototypes",
    "Recipe",
    "Train",
    "class_table",
    "differing_keys",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "read_recipe_text",
    "recipe_from_dict",
    "scale_ratio",
    "shipped_folder",
    "shipped_recipe_names",
    "shipped_recipe_path",
    "value_of",
]
