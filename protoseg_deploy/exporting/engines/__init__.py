"""Compiled engines of TensorRT."""
