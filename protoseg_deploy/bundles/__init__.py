"""The folder that leaves the building, and the artefacts in it."""
