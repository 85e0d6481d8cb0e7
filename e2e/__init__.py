"""End to end: what we write, read by the real programs around it."""
