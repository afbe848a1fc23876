"""What a person on call sees of the daemon: one value, and the ways to look at it."""
