"""The allocation problem that searchers see, and plain functions on it: Pareto, repair, allocation, features."""
