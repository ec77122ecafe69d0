"""Attacks on the record of a sweep: `python -m benchmarks.torture`; docs/reliability.md says what is promised."""
