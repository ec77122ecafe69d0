"""The experiment: its sections, their files, the table of schedulers."""
