"""vfinfo: the configuration, driver and netdev of each VF."""

from __future__ import annotations

from sriov_textfile.metrics import Family, labels
from sriov_textfile.problems import ProblemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.host.pci import Pf
    from sriov_textfile.host.rtnetlink import Vf
    from sriov_textfile.snapshot import Snapshot


_SETTINGS = ("mac", "vlan", "qos", "vlan_proto", "spoofchk", "trust", "link_state")


def collect(snapshot: Snapshot) -> Iterable[Family]:
    """Return `sriov_vf_info` for each VF, and its rate limits if they are set.

    A label is empty if the kernel does not report it, as for all VFs of a PF without netdev.
    Raises ProblemError.
    """
    info = Family(
        "sriov_vf_info", "gauge", "A VF: its configuration by the PF, its driver and netdev."
    )
    least = Family("sriov_vf_min_tx_rate_mbps", "gauge", "Rate that the VF is sure of, in Mbit/s.")
    most = Family("sriov_vf_max_tx_rate_mbps", "gauge", "Rate that limits the VF, in Mbit/s.")
    for pf in snapshot.pfs:
        configured = _configured(snapshot, pf)
        for number, address in pf.vfs.items():
            where = {
                "numa_node": pf.numa_node,
                "pciAddr": address,
                "pf": pf.netdev,
                "vf": str(number),
            }
            vf = configured.get(number)
            driver, netdev = _driver_and_netdev(snapshot, address)
            info.add(labels(**where, driver=driver, netdev=netdev, **_settings(vf)), 1)
            if vf and vf.min_tx_rate:
                least.add(labels(**where), vf.min_tx_rate)
            if vf and vf.max_tx_rate:
                most.add(labels(**where), vf.max_tx_rate)
    return info, least, most


def _driver_and_netdev(snapshot: Snapshot, address: str) -> tuple[str, str]:
    try:
        return snapshot.vf_driver_and_netdev(address)
    except ProblemError as error:
        snapshot.skip(error.problem)
        return "", ""


def _configured(snapshot: Snapshot, pf: Pf) -> dict[int, Vf]:
    if not (pf.netdev and pf.vfs):
        return {}
    try:
        return snapshot.link(pf).vfs
    except ProblemError as error:
        snapshot.fail(error.problem)
        return {}


def _settings(vf: Vf | None) -> dict[str, str]:
    """Return the labels from rtnetlink; without a VLAN, its labels are empty instead of 0."""
    if vf is None:
        return dict.fromkeys(_SETTINGS, "")
    vlan = bool(vf.vlan)
    return {
        "mac": vf.mac or "",
        "vlan": str(vf.vlan) if vlan else "",
        "qos": str(vf.qos) if vlan else "",
        "vlan_proto": (vf.vlan_proto or "") if vlan else "",
        "spoofchk": _flag(vf.spoofchk),
        "trust": _flag(vf.trust),
        "link_state": vf.link_state or "",
    }


def _flag(value: bool | None) -> str:
    return "" if value is None else str(value).lower()
