"""Decides which VFs' counters are held back: those that had counted and now are all 0.

While a NIC resets, its driver returns an error instead of a VF's counters. rtnl_fill_vfinfo() in
the kernel's net/core/rtnetlink.c ignores the error and sends zeros. Prometheus takes a counter that
falls to 0 and comes back for a reset, and adds the whole old value to the increase.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    # The VFs' names by number, their counters, and whether a reader failed.
    Port = tuple[dict[int, str], dict[int, dict[str, int]], bool]

# Longer than a reset takes: mlx5_core waits for a command for at most 60 s, for a dump of the
# firmware's state 60 s and for the firmware to start again 120 s (lib/tout.c); others are faster.
BELIEVED_AFTER = 300


class Past:
    """What a collection has found of the VFs, for the next one, by their names.

    The name of a VF is its PCI address; if its PF has several ports, it has one name for each:
    address and netdev, with a space between. Ports are read one after the other.
    """

    __slots__ = ("counted", "held_back", "time")

    def __init__(
        self, time: float, counted: Collection[str] = (), held_back: dict[str, int] | None = None
    ) -> None:
        self.time = time  # of the collection, in seconds since 1970
        self.counted = counted  # VFs with a counter above 0
        self.held_back = held_back or {}  # VFs that had counted before: since when


def judge(
    ports: Iterable[Port], recall: Callable[[], Past], created: Callable[[str], float]
) -> Past:
    """Return which VFs count now and which are held back; call `recall` for the past if need be.

    A VF is held back if it had counted and all of its counters are 0 or missing: zeros may follow.
    It is not if its device has been created since, or if that lasts. `created` returns when the
    device of a VF was created, in seconds since 1970; 0 means unknown.
    """
    now = time.time()
    counted: list[str] = []
    silent: dict[str, bool] = {}  # whether the VF's counters are missing because of a failure
    for vfs, by_vf, failed in ports:
        # Fast, because it is done for every VF at each collection: most have received a packet.
        received = [counters.get("rx_packets") for counters in by_vf.values()]
        if len(received) == len(vfs) and all(received):
            counted += vfs.values()
            continue
        for vf, name in vfs.items():
            if any(by_vf.get(vf, {}).values()):
                counted.append(name)
            else:
                silent[name] = failed and vf not in by_vf
    if not silent:
        return Past(now, counted)
    past = recall()
    had_counted = silent.keys() & past.counted | silent.keys() & past.held_back.keys()
    held_back = {}
    for name in had_counted:
        since = past.held_back.get(name)
        if created(name) > (past.time if since is None else since):
            continue
        # Zeros may begin after a failure of any length. A time in the future is of a wrong clock.
        if since is None or silent[name] or since > now:
            since = int(now)
        if now - since < BELIEVED_AFTER:
            held_back[name] = since
    return Past(now, counted, held_back)
