"""Reads the kubelet's API and files, and its cgroups; does not depend on metrics."""
