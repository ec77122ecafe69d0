"""Measuring this machine into a device file."""
