"""The HAQ actor-critic agent. stable-baselines3 and gymnasium are imported here only."""
