"""Real servers of a test's own, on loopback."""
