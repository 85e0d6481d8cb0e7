"""Reads the machine: knows the kernel's formats, and no metrics."""
