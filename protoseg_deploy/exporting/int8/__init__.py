"""Quantised graphs: calibration, which layers stay in higher precision, Q/DQ nodes."""
