"""Servers for bundles: an inference server of our own, and model repositories for Triton."""
