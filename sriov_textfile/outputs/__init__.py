"""Delivers the metrics: once, in a loop, or over HTTP."""
