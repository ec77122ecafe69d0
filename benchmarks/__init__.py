"""Measurements: run each with `python -m benchmarks.NAME`. Not part of the installed package."""
