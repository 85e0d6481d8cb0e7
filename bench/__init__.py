"""Benchmarks of a run and of a collection, reported as ratios measured side by side."""
