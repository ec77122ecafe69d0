"""A network as it runs: calls, layers, statistics, folding, data flow."""
