"""Recipes: everything that decides a run, as strict YAML."""

from protoseg_deploy.recipe.classes import ClassTable, class_table
from protoseg_deploy.recipe.data import Data, ImageFolder, LabeledFolder, percentiles_of, scale_ratio
from protoseg_deploy.recipe.explaining import KeyText, explained_keys, reference, resumable_keys
from protoseg_deploy.recipe.loading import (
    did_you_mean,
    differing_keys,
    dump_recipe,
    find_recipe,
    load_recipe,
    read_recipe_text,
    recipe_from_dict,
    value_of,
)
from protoseg_deploy.recipe.method import Features, Method, Model, Prototypes
from protoseg_deploy.recipe.reading import ImageReading, MaskReading, image_reading, mask_reading
from protoseg_deploy.recipe.runs import load_run_recipe, with_keys_of
from protoseg_deploy.recipe.schema import Recipe
from protoseg_deploy.recipe.shipped import (
    copy_kit,
    shipped_folder,
    shipped_kits,
    shipped_recipe_names,
    shipped_recipe_path,
)
from protoseg_deploy.recipe.train import Distill, Ohem, Train
from protoseg_deploy.recipe.types import MOST_STEPS, Color

__all__ = [
    "MOST_STEPS",
    "ClassTable",
    "Color",
    "Data",
    "Distill",
    "Features",
    "ImageFolder",
    "ImageReading",
    "KeyText",
    "LabeledFolder",
    "MaskReading",
    "Method",
    "Model",
    "Ohem",
    "Prototypes",
    "Recipe",
    "Train",
    "class_table",
    "copy_kit",
    "did_you_mean",
    "differing_keys",
    "dump_recipe",
    "explained_keys",
    "find_recipe",
    "image_reading",
    "load_recipe",
    "load_run_recipe",
    "mask_reading",
    "percentiles_of",
    "read_recipe_text",
    "recipe_from_dict",
    "reference",
    "resumable_keys",
    "scale_ratio",
    "shipped_folder",
    "shipped_kits",
    "shipped_recipe_names",
    "shipped_recipe_path",
    "value_of",
    "with_keys_of",
]
