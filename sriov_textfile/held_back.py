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

    from sriov_textfile.host.pci import Pf

    # A PF or one of its ports, the counters of its VFs, and whether a reader failed.
    Port = tuple[Pf, dict[int, dict[str, int]], bool]

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
        # VFs that had counted before, since when. Some are not listed now, as while the netdev of
        # their PF is gone.
        self.held_back = held_back or {}


def names(pf: Pf) -> dict[int, str]:
    """Return the names of a PF's VFs, by number; see Past."""
    return {vf: f"{address} {pf.netdev}" for vf, address in pf.vfs.items()} if pf.port else pf.vfs


def judge(
    ports: Iterable[Port],
    past: Past | None,
    recall: Callable[[], Past],
    created: Callable[[str], float],
) -> Past:
    """Return which VFs count now and which are held back.

    Without a `past`, `recall` is called for one if need be. A VF is held back if it had counted and
    all of its counters are 0 or missing: zeros may follow. It is not if its device has been created
    since, or if that lasts. `created` returns when the device at an address was created, in seconds
    since 1970; 0 means unknown.
    """
    now = time.time()
    counted: list[str] = []
    # The others: PF, number, and whether the counters are missing because of a failure.
    silent: dict[str, tuple[Pf, int, bool]] = {}
    for pf, by_vf, failed in ports:
        # Fast, because it is done for every VF at each collection: most have received a packet.
        received = [counters.get("rx_packets") for counters in by_vf.values()]
        if len(received) == len(pf.vfs) and all(received):
            counted += names(pf).values()
            continue
        for vf, name in names(pf).items():
            if any(by_vf.get(vf, {}).values()):
                counted.append(name)
            else:
                silent[name] = pf, vf, failed and vf not in by_vf
    # Most collections find what the one before has found, or are the only one of their process.
    if not silent and (past is None or (counted == past.counted and not past.held_back)):
        return Past(now, counted)
    held_back: dict[str, int] = {}
    earlier = recall() if past is None else past
    known = {*earlier.counted, *earlier.held_back}
    unlisted = known.difference(counted, silent)
    if past is not None:  # What was recalled has names for one port and for several.
        for name in unlisted:
            since = min(past.held_back.get(name, int(now)), int(now))
            if now - since < BELIEVED_AFTER:
                held_back[name] = since
    had_counted = {name: name for name in silent.keys() & known}
    if unlisted:
        for name, (pf, vf, _) in silent.items():
            for other in _other_names(pf, vf):
                if other in unlisted:
                    had_counted.setdefault(name, other)
    for name, before in had_counted.items():
        pf, vf, failed = silent[name]
        begun = earlier.held_back.get(before)
        if created(pf.vfs[vf]) > (earlier.time if begun is None else begun):
            continue
        # Zeros may begin after a failure of any length. A time in the future is of a wrong clock.
        since = int(now) if begun is None or failed or begun > now else begun
        if now - since < BELIEVED_AFTER:
            held_back[name] = since
    return Past(now, counted, held_back)


def _other_names(pf: Pf, vf: int) -> tuple[str, ...]:
    """Return the names that a VF had if its PF had more netdevs, fewer or none."""
    address = pf.vfs[vf]
    none = f"{address} "
    return (none,) if pf.port else (f"{address} {pf.netdev}", none)
