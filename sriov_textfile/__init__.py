"""Prometheus metrics of SR-IOV virtual functions, and of the pods and CPUs that use them."""

__version__ = "0.1.0"
