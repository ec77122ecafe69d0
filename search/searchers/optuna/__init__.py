"""Searchers on Optuna's samplers. optuna is imported here and in `search.searchers.auto` only."""
