"""Changes of a float network that leave its outputs as they are and make it easier to quantize: smoothing and rotations."""
