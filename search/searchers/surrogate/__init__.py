"""Models of the loss that searchers fit to what was told, and where they begin."""
