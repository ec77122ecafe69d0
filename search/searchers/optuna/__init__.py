"""Searchers on Optuna's samplers. The only home of optuna."""
