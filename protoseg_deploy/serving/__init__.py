"""Verified artefacts behind inference servers."""
