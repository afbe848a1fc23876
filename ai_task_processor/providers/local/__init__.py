"""Models that are computed inside the process: the one that ships, and those that a user brings."""
