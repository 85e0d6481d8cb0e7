"""Reads how long a device has existed."""

from __future__ import annotations

from sriov_textfile.host.files import read_int


def seconds(device: str) -> float | None:
    """Return the age of the device with this directory in sysfs, or None if it is unknown.

    It is the time that the device has been active or suspended since it was created
    (Documentation/ABI/testing/sysfs-devices-power; with CONFIG_PM). The times of a directory in
    sysfs are no help: they are those of its inode, which the kernel may drop and create again.
    Raises OSError.
    """
    active = read_int(f"{device}/power/runtime_active_time")  # milliseconds
    suspended = read_int(f"{device}/power/runtime_suspended_time")
    return None if active is None or suspended is None else (active + suspended) / 1000
