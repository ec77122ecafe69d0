"""What searchers share: the history of proposals, losses, targets, neighbours. Free of heavy imports."""
