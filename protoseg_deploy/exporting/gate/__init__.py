"""Verification: every artefact is compared with what it was made from, on real images."""
