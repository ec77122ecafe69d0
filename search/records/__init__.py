"""The record of a sweep: results, trials, the front, and fronts side by side. Free of heavy imports."""
