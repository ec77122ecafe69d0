"""Trials on Ray Tune, on this machine or a cluster. The only home of ray, which is imported when a sweep runs on it."""
