"""Measures Prometheus with our rules and dashboard on a fleet of simulated nodes."""
