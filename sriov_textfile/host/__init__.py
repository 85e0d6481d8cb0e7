"""Reads the machine from sysfs, rtnetlink and ethtool; does not depend on metrics."""
