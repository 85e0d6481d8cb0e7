"""A PF's VFs as decode_link, pyroute2 and `ip` decode them, in one format for comparison.

The tests compare captured replies, the lab those of a running kernel.
"""

from __future__ import annotations

from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from sriov_textfile.host.rtnetlink import Link
from sriov_textfile.simulate.rtnetlink import LinkVf

Vfs = dict[int, dict[str, Any]]

_STATES = ("auto", "enable", "disable")


def by_us(link: Link) -> Vfs:
    """Return every field of every VF that decode_link found."""
    return {
        number: {
            "mac": vf.mac,
            "vlan": vf.vlan,
            "qos": vf.qos,
            "spoofchk": vf.spoofchk,
            "trust": vf.trust,
            "link_state": vf.link_state,
            "min_tx_rate": vf.min_tx_rate,
            "max_tx_rate": vf.max_tx_rate,
            **vf.stats,
        }
        for number, vf in link.vfs.items()
    }


def by_pyroute2(reply: bytes) -> Vfs:
    """Return the VFs that pyroute2 decodes from a reply."""
    message = ifinfmsg(reply)
    message.decode()
    vfs = {}
    for entry in message.get_attr("IFLA_VFINFO_LIST").get_attrs("IFLA_VF_INFO"):
        (info,) = entry.get_attr("IFLA_VF_VLAN_LIST").get_attrs("IFLA_VF_VLAN_INFO")
        stats = entry.get_attr("IFLA_VF_STATS")
        vfs[entry.get_attr("IFLA_VF_MAC")["vf"]] = {
            "mac": entry.get_attr("IFLA_VF_MAC")["mac"],
            "vlan": info["vlan"],
            "qos": info["qos"],
            "spoofchk": bool(entry.get_attr("IFLA_VF_SPOOFCHK")["spoofchk"]),
            "trust": bool(entry.get_attr("IFLA_VF_TRUST")["trust"]),
            "link_state": _STATES[entry.get_attr("IFLA_VF_LINK_STATE")["link_state"]],
            "min_tx_rate": entry.get_attr("IFLA_VF_RATE")["min_tx_rate"],
            "max_tx_rate": entry.get_attr("IFLA_VF_RATE")["max_tx_rate"],
            "rx_packets": stats.get_attr("IFLA_VF_STATS_RX_PACKETS"),
            "tx_packets": stats.get_attr("IFLA_VF_STATS_TX_PACKETS"),
            "rx_bytes": stats.get_attr("IFLA_VF_STATS_RX_BYTES"),
            "tx_bytes": stats.get_attr("IFLA_VF_STATS_TX_BYTES"),
            "rx_broadcast": stats.get_attr("IFLA_VF_STATS_BROADCAST"),
            "rx_multicast": stats.get_attr("IFLA_VF_STATS_MULTICAST"),
            "rx_dropped": stats.get_attr("IFLA_VF_STATS_RX_DROPPED"),
            "tx_dropped": stats.get_attr("IFLA_VF_STATS_TX_DROPPED"),
        }
    return vfs


def by_ip(link: dict[str, Any]) -> Vfs:
    """Return the VFs in the output of `ip -j -s -d link show` for one link."""
    vfs = {}
    for vf in link.get("vfinfo_list", ()):
        (vlan,) = vf["vlan_list"]
        rx, tx = vf["stats"]["rx"], vf["stats"]["tx"]
        vfs[vf["vf"]] = {
            "mac": vf["address"],
            "vlan": vlan.get("vlan", 0),
            "qos": vlan.get("qos", 0),
            "spoofchk": vf["spoofchk"],
            "trust": vf["trust"],
            "link_state": vf["link_state"],
            "min_tx_rate": vf["rate"]["min_tx"],
            "max_tx_rate": vf["rate"]["max_tx"],
            "rx_packets": rx["packets"],
            "tx_packets": tx["tx_packets"],
            "rx_bytes": rx["bytes"],
            "tx_bytes": tx["tx_bytes"],
            "rx_broadcast": rx["broadcast"],
            "rx_multicast": rx["multicast"],
            "rx_dropped": rx["dropped"],
            "tx_dropped": tx["dropped"],
        }
    return vfs


def as_said(link: Link) -> list[LinkVf]:
    """Return the VFs as the driver must have reported them to the kernel."""
    return [
        LinkVf(
            number=number,
            mac=bytes.fromhex((vf.mac or "").replace(":", "")),
            vlan=vf.vlan or 0,
            qos=vf.qos or 0,
            spoofchk=int(vf.spoofchk or 0),
            link_state=_STATES.index(vf.link_state or ""),
            min_tx_rate=vf.min_tx_rate or 0,
            max_tx_rate=vf.max_tx_rate or 0,
            trust=int(vf.trust or 0),
            stats=vf.stats,
        )
        for number, vf in link.vfs.items()
    ]
