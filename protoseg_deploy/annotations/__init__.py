"""Annotations of labelling tools: read into index masks, and written from class maps."""
