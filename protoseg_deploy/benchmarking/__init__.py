"""Latency and memory of a runtime, and the machine they were measured on."""
