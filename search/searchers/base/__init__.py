"""Parts of all searchers: the history of proposals, estimated losses, budgets, neighbours. Free of heavy imports."""
