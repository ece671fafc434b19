"""From a folder of photographs to a recipe: which files are what, how to divide them, what to train."""
