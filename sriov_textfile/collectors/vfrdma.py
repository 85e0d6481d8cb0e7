"""vfrdma: the counters of the VFs' RDMA devices (RoCE, InfiniBand)."""

from __future__ import annotations

from sriov_textfile.metrics import Family, labels
from sriov_textfile.problems import ProblemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.host.pci import Pf
    from sriov_textfile.host.rdma import Port
    from sriov_textfile.snapshot import Snapshot

# By name in sysfs: the end of the metric's name, as in node_exporter's collector infiniband, and
# the help. Counters that are not here have the name in sysfs and _total.
COUNTERS = {
    "port_rcv_data": ("port_data_received_bytes", "Bytes received on all virtual lanes."),
    "port_xmit_data": ("port_data_transmitted_bytes", "Bytes sent on all virtual lanes."),
    "port_rcv_packets": ("port_packets_received", "Packets received, also with errors."),
    "port_xmit_packets": ("port_packets_transmitted", "Packets sent, also with errors."),
    "unicast_rcv_packets": ("unicast_packets_received", "Unicast packets received."),
    "unicast_xmit_packets": ("unicast_packets_transmitted", "Unicast packets sent."),
    "multicast_rcv_packets": ("multicast_packets_received", "Multicast packets received."),
    "multicast_xmit_packets": ("multicast_packets_transmitted", "Multicast packets sent."),
    "port_rcv_errors": ("port_errors_received", "Packets received with an error."),
    "port_rcv_discards": ("port_discards_received", "Received packets that were dropped."),
    "port_xmit_discards": ("port_discards_transmitted", "Packets dropped instead of sent."),
    "port_rcv_constraint_errors": (
        "port_constraint_errors_received",
        "Received packets that were dropped by a filter or a partition check.",
    ),
    "port_xmit_constraint_errors": (
        "port_constraint_errors_transmitted",
        "Packets not sent because of a filter or a partition check.",
    ),
    "port_rcv_remote_physical_errors": (
        "port_receive_remote_physical_errors",
        "Packets received that were marked as bad on the way.",
    ),
    "port_rcv_switch_relay_errors": (
        "port_receive_switch_relay_errors",
        "Packets received that the switch could not forward.",
    ),
    "port_xmit_wait": ("port_transmit_wait", "Ticks with data to send and none sent."),
    "symbol_error": ("symbol_error", "Minor link errors on the physical lanes."),
    "link_downed": ("link_downed", "Failed recoveries of the link, after which it was down."),
    "link_error_recovery": ("link_error_recovery", "Successful recoveries of the link."),
    "local_link_integrity_errors": (
        "local_link_integrity_errors",
        "Times that local physical errors exceeded their limit.",
    ),
    "excessive_buffer_overrun_errors": (
        "excessive_buffer_overrun_errors",
        "Times that buffers overran in several flow control periods in a row.",
    ),
    "VL15_dropped": ("vl15_dropped", "Management packets (VL15) dropped for lack of resources."),
    # hw_counters of mlx5_core
    "np_ecn_marked_roce_packets": (
        "np_ecn_marked_roce_packets_received",
        "RoCEv2 packets received that a switch marked as congested (ECN).",
    ),
    "np_cnp_sent": (
        "np_cnp_packets_sent",
        "Congestion notifications (CNPs) sent because of marked packets.",
    ),
    "rp_cnp_handled": ("rp_cnp_packets_handled", "CNPs received that slowed down a sender."),
    "rp_cnp_ignored": ("rp_cnp_ignored_packets_received", "CNPs received and ignored."),
    "out_of_sequence": ("out_of_sequence_packets_received", "Packets received out of sequence."),
    "out_of_buffer": (
        "out_of_buffer_drops",
        "Packets dropped because no receive work request was posted.",
    ),
    "rnr_nak_retry_err": (
        "rnr_nak_retry_packets_received",
        "Receiver-not-ready (RNR) NAKs received; the packets were sent again.",
    ),
    "packet_seq_err": (
        "packet_sequence_errors",
        "Sequence error NAKs received; the packets were sent again.",
    ),
    "local_ack_timeout_err": (
        "local_ack_timeout_errors",
        "Acknowledgement timeouts; the packets were sent again.",
    ),
    "implied_nak_seq_err": (
        "implied_nak_seq_errors",
        "Acknowledgements that skipped a read or an atomic operation.",
    ),
    "duplicate_request": ("duplicate_requests_packets", "Requests received twice."),
    "req_cqe_error": ("req_cqes_errors", "Completions with errors, as requester."),
    "req_cqe_flush_error": ("req_cqes_flush_errors", "Flushed completions, as requester."),
    "req_remote_access_errors": ("req_remote_access_errors", "Refused accesses, as requester."),
    "req_remote_invalid_request": (
        "req_remote_invalid_request_errors",
        "Requests refused as invalid, as requester.",
    ),
    "resp_cqe_error": ("resp_cqes_errors", "Completions with errors, as responder."),
    "resp_cqe_flush_error": ("resp_cqes_flush_errors", "Flushed completions, as responder."),
    "resp_local_length_error": (
        "resp_local_length_errors",
        "Messages of a wrong length, as responder.",
    ),
    "resp_remote_access_errors": ("resp_remote_access_errors", "Refused accesses, as responder."),
    "roce_adp_retrans": ("roce_adp_retransmits", "Adaptive retransmissions."),
    "roce_adp_retrans_to": (
        "roce_adp_retransmits_timeout",
        "Timeouts in adaptive retransmission.",
    ),
    "roce_slow_restart": ("roce_slow_restart_used", "Uses of slow restart."),
    "roce_slow_restart_cnps": ("roce_slow_restart_cnps", "CNPs that slow restart generated."),
    "roce_slow_restart_trans": ("roce_slow_restart", "Changes of the state to slow restart."),
    "rx_atomic_requests": ("rx_atomic_requests", "Atomic requests received."),
    "rx_dct_connect": ("rx_dct_connect_requests", "Connection requests received by DCTs."),
    "rx_icrc_encapsulated": (
        "rx_icrc_encapsulated_errors",
        "RoCE packets received with a wrong checksum (ICRC).",
    ),
    "rx_read_requests": ("rx_read_requests", "Read requests received."),
    "rx_write_requests": ("rx_write_requests", "Write requests received."),
}
_LIFESPAN = "lifespan"  # how long the driver keeps the values of hw_counters, in milliseconds
_GAUGES = ("active_", "watermark_")  # starts of names in bnxt_re's hw_counters


def collect(snapshot: Snapshot) -> Iterable[Family]:
    """Return a family `sriov_vf_rdma_<name>` for each counter of a VF's RDMA device.

    A VF whose device is in another network namespace has none. A PF whose driver hangs is recorded
    as a failure. Raises ProblemError.
    """
    families = {name: _family(f"{name}_total", help) for name, help in COUNTERS.values()}
    pfs: dict[str, list[Pf]] = {}
    for pf in snapshot.pfs:
        pfs.setdefault(pf.address, []).append(pf)
    for ports in pfs.values():
        try:
            found = snapshot.rdma_ports(ports[0])
        except ProblemError as error:
            snapshot.fail(error.problem)
            continue
        for vf, rdma_ports in found.items():
            for port in rdma_ports:
                own = _pf(ports, port)
                if own is None:
                    continue
                series = labels(
                    device=port.device,
                    numa_node=own.numa_node,
                    pciAddr=ports[0].vfs[vf],
                    pf=own.netdev,
                    port=port.number,
                    vf=str(vf),
                )
                for name, value in port.counters.items():
                    _add(families, name, series, value)
    return families.values()


def _pf(ports: list[Pf], port: Port) -> Pf | None:
    """Return the PF's port that an RDMA port belongs to, None if it is not among these.

    Both are numbered, and the flags may leave out a port of the PF.
    """
    number = int(port.number) if port.number.isdecimal() else 1
    return next((pf for pf in ports if pf.port in (0, number)), None)


def _add(families: dict[str, Family], name: str, series: str, value: int) -> None:
    """Add the value of a counter by its name in sysfs."""
    metric, _ = COUNTERS.get(name, (name, ""))
    if name == _LIFESPAN:
        help = "How long the driver keeps the values of its counters before it reads them again."
        family = families.setdefault(name, _family("lifespan_seconds", help, "gauge"))
        family.add(series, value / 1000)
        return
    if metric not in families:
        help = f"The driver's counter {name} of the VF's RDMA device."
        is_gauge = name.startswith(_GAUGES)
        families[metric] = (
            _family(name, help, "gauge") if is_gauge else _family(f"{name}_total", help)
        )
    families[metric].add(series, value)


def _family(name: str, help: str, type: str = "counter") -> Family:
    return Family(f"sriov_vf_rdma_{name}", type, help)
