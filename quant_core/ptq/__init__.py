"""Post-training quantization: activations, rounding, corrections, and the engine that applies a policy."""
