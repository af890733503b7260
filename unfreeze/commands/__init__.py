"""The commands, one file per group. Each returns its exit code."""
