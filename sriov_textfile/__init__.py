"""Prometheus metrics for SR-IOV virtual functions, and for the pods and CPUs that use them."""

__version__ = "0.2.0"
