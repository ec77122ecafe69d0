"""Exact solvers of the allocation problem, and their lists of best answers."""
