"""The commands, one file a group. Each gives its exit code."""
