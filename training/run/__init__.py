"""One training as a process: its command, progress, journal, checkpoints and provenance."""
