"""Measuring a policy: on a split, after training, and layer by layer."""
