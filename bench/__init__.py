"""Benchmarks: what a run and a collection cost, as ratios measured side by side in one run."""
