"""The versions in memory: loaded, proven, swapped, tried beside one another and let go."""
