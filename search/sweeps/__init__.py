"""A sweep from start to end: setup, trials here or on a cluster, promotion, the final front."""
