"""Reads Kubernetes' node agent and the cgroups that it makes; knows no metric."""
