"""Builds the sysfs tree of an RDMA device of mlx5_core, with counters that grow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# In counters, and how much each grows per second; data is in words of four octets.
COUNTERS = {
    "VL15_dropped": 0,
    "excessive_buffer_overrun_errors": 0,
    "link_downed": 0,
    "link_error_recovery": 0,
    "local_link_integrity_errors": 0,
    "multicast_rcv_packets": 1,
    "multicast_xmit_packets": 1,
    "port_rcv_constraint_errors": 0,
    "port_rcv_data": 50_000,
    "port_rcv_errors": 0,
    "port_rcv_packets": 200,
    "port_rcv_remote_physical_errors": 0,
    "port_rcv_switch_relay_errors": 0,
    "port_xmit_constraint_errors": 0,
    "port_xmit_data": 40_000,
    "port_xmit_discards": 0,
    "port_xmit_packets": 160,
    "port_xmit_wait": 3,
    "symbol_error": 0,
    "unicast_rcv_packets": 199,
    "unicast_xmit_packets": 159,
}
HW_COUNTERS = {
    "duplicate_request": 0,
    "implied_nak_seq_err": 0,
    "local_ack_timeout_err": 0,
    "np_cnp_sent": 5,
    "np_ecn_marked_roce_packets": 6,
    "out_of_buffer": 1,
    "out_of_sequence": 2,
    "packet_seq_err": 2,
    "req_cqe_error": 0,
    "req_cqe_flush_error": 0,
    "req_remote_access_errors": 0,
    "req_remote_invalid_request": 0,
    "resp_cqe_error": 0,
    "resp_cqe_flush_error": 0,
    "resp_local_length_error": 0,
    "resp_remote_access_errors": 0,
    "rnr_nak_retry_err": 3,
    "roce_adp_retrans": 0,
    "roce_adp_retrans_to": 0,
    "roce_slow_restart": 0,
    "roce_slow_restart_cnps": 0,
    "roce_slow_restart_trans": 0,
    "rp_cnp_handled": 7,
    "rp_cnp_ignored": 0,
    "rx_atomic_requests": 0,
    "rx_icrc_encapsulated": 0,
    "rx_read_requests": 20,
    "rx_write_requests": 30,
}
_DEVICE = {
    "board_id": "MT_0000000359",
    "fw_ver": "22.43.2566",
    "hca_type": "MT4126",
    "node_type": "1: CA",
}
_PORT = {"link_layer": "Ethernet", "phys_state": "5: LinkUp", "rate": "100 Gb/sec (4X EDR)"}
_PORT |= {"state": "4: ACTIVE"}


def values(growth: Mapping[str, int], vf: int, seconds: int) -> dict[str, int]:
    """Return the counters of a VF, VF + 1 times as high as those of VF 0."""
    return {
        name: (vf + 1) * (1000 + order + rate * seconds)
        for order, (name, rate) in enumerate(growth.items())
    }


def create(pci_device: Path, sys_class: Path, name: str) -> Path:
    """Create the RDMA device of a PCI device, and return the directory of its port."""
    device = pci_device / "infiniband" / name
    port = device / "ports/1"
    for counters in ("counters", "hw_counters"):
        (port / counters).mkdir(parents=True)
    for folder, facts in ((device, _DEVICE), (port, _PORT)):
        for fact, text in facts.items():
            (folder / fact).write_text(f"{text}\n")
    (port / "hw_counters/lifespan").write_text("10\n")
    (sys_class / "infiniband").mkdir(exist_ok=True)
    (sys_class / "infiniband" / name).symlink_to(
        os.path.relpath(device, (sys_class / "infiniband").resolve())
    )
    return port
