"""Bit Fusion (Sharma et al., ISCA 2018): schedules of its systolic array."""
