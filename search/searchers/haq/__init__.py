"""The HAQ actor-critic agent. The only home of stable-baselines3 and gymnasium."""
