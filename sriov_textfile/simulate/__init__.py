"""Simulates a host and a Kubernetes node: the files and sockets that the program reads.

For the demo, the tests and the benchmarks. `make lab` compares the simulation with a real kernel.
"""
