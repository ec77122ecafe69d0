"""What an experiment says: its sections, their files, the table of schedulers."""
