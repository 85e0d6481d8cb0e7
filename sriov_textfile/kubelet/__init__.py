"""Reads Kubernetes' node agent, the kubelet, and the cgroups that it creates; knows no metrics."""
