"""Draws conclusions from a Report: what is wrong, what that means, and what to do.

Each rule below is a generator of findings, and RULES lists them in the order of the printing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from sriov_textfile.doctor.report import Finding, Pf, Report, Vf

# Drivers that were seen to have no ndo_get_vf_stats.
_SILENT_DRIVERS = ("igb",)

_MOUNT = "mount the host's there, as the manifests in deployment/ do, or set"


def findings(report: Report) -> list[Finding]:
    """Return everything that keeps a metric away or makes it doubtful."""
    return [finding for rule in RULES for finding in rule(report)]


def _missing_mounts(report: Report) -> Iterator[Finding]:
    if report.pci_problem:
        yield Finding(
            "missing-mount",
            "--path.sysbuspci",
            report.pci_problem,
            "no PF and no VF can be found; a container that lacks the host's /sys looks like this",
            f"{_MOUNT} --path.sysbuspci",
        )
    if report.net_problem:
        yield Finding(
            "missing-mount",
            "--path.sysclassnet",
            report.net_problem,
            "the sysfs reader finds no counters; a container that lacks the host's /sys looks so",
            f"{_MOUNT} --path.sysclassnet",
        )
    for problem in report.cpus.missing:
        flag, _, reason = problem.partition(": ")
        reason, _, mend = reason.partition("; ")
        yield Finding(
            "missing-mount",
            flag,
            reason,
            "sriov_kubepodcpu or sriov_cpu_info lacks pods, or is not there at all",
            mend or f"in a container {_MOUNT} {flag}; on a host, run as root",
        )


def _no_pf(report: Report) -> Iterator[Finding]:
    if report.pfs or report.pci_problem:
        return
    if report.left_out:
        yield Finding(
            "no-pf",
            "",
            f"all {report.left_out} PFs are left out by --collector.pf-include or pf-exclude",
            "there are no sriov_vf_* and sriov_pf_* metrics",
            "correct the two regular expressions: they are searched for in the PF's netdev",
        )
        return
    yield Finding(
        "no-pf",
        "",
        "no network device of this host can have VFs (none has sriov_totalvfs)",
        "there are no sriov_vf_* and sriov_pf_* metrics; this is right for a host without SR-IOV,"
        " and for a virtual machine that was given VFs",
        "turn SR-IOV on in the firmware of host and NIC, and see that the PF's driver is loaded",
    )


def _other_namespace(report: Report) -> Iterator[Finding]:
    names = ", ".join(pf.netdev for pf in report.pfs if pf.in_other_namespace)
    if names:
        yield Finding(
            "wrong-network-namespace",
            names,
            f"sysfs has the netdevs of PFs, and the kernel knows none of these here: {names}",
            "this is not the host's network namespace, so rtnetlink tells nothing of the"
            " host's PFs: the netlink reader has no counters, vfinfo no configuration",
            "run in the host's network namespace; in a pod: hostNetwork: true",
        )


def _no_netdev(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        if pf.netdev:
            continue
        if pf.driver == "vfio-pci":
            meaning = (
                "the PF belongs to a guest or to a userspace driver, and the kernel sees it no more"
            )
            mend = "nothing, if that is meant; else bind the PF to its network driver"
        elif not pf.driver:
            meaning = "no driver has the PF, so nobody counts for its VFs"
            mend = "load its driver; dmesg says why that failed, if it did"
        elif pf.kind == "InfiniBand":
            meaning = "an InfiniBand PF has a netdev only by IP over InfiniBand"
            mend = "modprobe ib_ipoib; or, if the host has the netdev, run in its network namespace"
        else:
            meaning = "its netdev is in another network namespace than this program or its /sys"
            mend = "run in the host's network namespace; in a pod: hostNetwork: true"
        yield Finding(
            "no-netdev",
            pf.address,
            f"PF {pf.address} (driver {pf.driver or 'none'}) has no netdev",
            f"{meaning}: no reader has counters for its VFs",
            mend,
        )


def _no_vfs(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        if not pf.vfs:
            name = pf.netdev or pf.address
            yield Finding(
                "no-vfs",
                name,
                f"{name} has no VFs, and could have {pf.total_vfs}",
                "there are no sriov_vf_* metrics for it",
                f"echo N > /sys/bus/pci/devices/{pf.address}/sriov_numvfs, or let the SR-IOV"
                f" operator do it; if none are wanted: {_leave_out(pf)}",
            )


def _no_counters(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        without = [str(vf.number) for vf in pf.vfs if not vf.counters]
        if not without or not pf.netdev or pf.in_other_namespace:
            continue
        yield Finding(
            "no-counters",
            pf.netdev,
            f"no reader has counters for {len(without)} of the {len(pf.vfs)} VFs of {pf.netdev}",
            "; ".join(
                f"{reader.name}: {reader.why_not}" for reader in pf.readers if reader.why_not
            ),
            f"see what driver {pf.driver} can do (docs/hardware.md); a newer kernel or the"
            " vendor's own driver may count",
        )


def _only_zeros(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        netlink = [reader for reader in pf.readers if reader.name == "netlink"]
        counters = [vf.counters for vf in pf.vfs if vf.counters]
        if not counters or any(any(values.values()) for values in counters) or not netlink[0].vfs:
            continue
        evidence = [text for vf in pf.vfs if (text := _in_use(vf))]
        silent = pf.driver in _SILENT_DRIVERS
        if not (silent or evidence):
            continue
        although = f", although {evidence[0]}" if evidence else ""
        meaning = (
            f"driver {pf.driver} gives the kernel no VF counters"
            if silent
            else f"either they are all idle, or driver {pf.driver} gives the kernel no VF counters"
        )
        yield Finding(
            "only-zeros",
            pf.netdev,
            f"all counters of the {len(counters)} VFs of {pf.netdev} are 0{although}",
            f"{meaning}; the kernel then reports zeros, which nobody can tell from idle VFs",
            "take a driver that counts (docs/hardware.md); until then leave the zeros out:"
            f" {_leave_out(pf)}",
        )


def _in_use(vf: Vf) -> str:
    """Say why a VF should have counted something; "" where nothing is known."""
    if vf.netdev_packets:
        return f"{vf.netdev} (VF {vf.number}) itself has counted {vf.netdev_packets} packets"
    if vf.pods:
        return f"{vf.pods[0]} holds VF {vf.number}"
    if vf.driver == "vfio-pci":
        return f"VF {vf.number} is bound to vfio-pci for a guest"
    return ""


def _wrapped(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        if pf.vf_list_wrapped:
            yield Finding(
                "more-vfs-than-other-tools-see",
                pf.netdev,
                f"the kernel's list of the {len(pf.vfs)} VFs of {pf.netdev} is longer than its own"
                " length of 16 bits can say",
                "what this program writes is whole; ip, pyroute2 and exporters that believe the"
                " length show few of these VFs or none",
                "trust the others for fewer than 222 VFs on a PF only",
            )


def _kubelet(report: Report) -> Iterator[Finding]:
    kubelet = report.kubelet
    if kubelet.wanted and kubelet.problem:
        yield Finding(
            "kubelet",
            kubelet.socket,
            kubelet.problem,
            "nobody can tell which pod holds which VF: there is no sriov_kubepoddevice",
            kubelet.mend or "see what the kubelet logs: journalctl -u kubelet",
        )


def _cpu_policy(report: Report) -> Iterator[Finding]:
    cpus = report.cpus
    if cpus.wanted and cpus.policy not in ("", "static"):
        yield Finding(
            "cpu-manager-policy",
            "",
            f"the kubelet's CPU manager has the policy {cpus.policy}",
            "no container has CPUs to itself, so there is no sriov_kubepodcpu",
            "set cpuManagerPolicy: static in the kubelet's configuration, if pods shall have CPUs"
            " to themselves; else turn kubepodcpu off",
        )


def _textfile(report: Report) -> Iterator[Finding]:
    if (textfile := report.textfile) is None:
        return
    path = textfile.path
    folder = path.rpartition("/")[0] or "."
    if not textfile.folder_exists:
        yield Finding(
            "textfile-folder-missing",
            folder,
            f"there is no folder {folder}",
            f"{path} cannot be written, and node_exporter has nothing of ours to read",
            "make the folder, or correct --textfile.path; in a container mount it",
        )
        return
    if not textfile.writable:
        yield Finding(
            "textfile-not-writable",
            folder,
            f"{report.user} may not write into {folder}",
            f"{path} cannot be written by this user and stays as it was",
            f"run as a user who may, or let this one: chgrp and chmod g+w {folder}",
        )
    yield from _unread(report, folder)
    if textfile.age_seconds is None:
        yield Finding(
            "textfile-missing",
            path,
            f"there is no {path}",
            "nothing has been written yet",
            "start what writes it: systemctl start sriov-textfile.timer, and look at its journal",
        )
    elif textfile.age_seconds > textfile.stale_after_seconds:
        yield Finding(
            "textfile-stale",
            path,
            f"{path} was written {textfile.age_seconds:.0f} s ago",
            "Prometheus still takes its numbers for new ones: rates are 0, and no alert fires",
            "see why nothing writes it: systemctl status sriov-textfile.timer, and the journal",
        )


def _unread(report: Report, folder: str) -> Iterator[Finding]:
    textfile = report.textfile
    if textfile is None or any(one.reads_ours for one in textfile.node_exporters):
        return
    if textfile.node_exporters:
        others = ", ".join(
            f"process {one.pid} reads {one.folder or 'no folder at all'}"
            for one in textfile.node_exporters
        )
        what = f"no node_exporter reads {folder}: {others}"
    elif textfile.sees_processes:
        what = f"no node_exporter runs on this host, so none reads {folder}"
    else:
        return  # A container does not see the host's processes: nothing is known.
    yield Finding(
        "textfile-not-read",
        folder,
        what,
        "what is written there does not reach Prometheus",
        f"start node_exporter with --collector.textfile.directory={folder}, or set"
        " --textfile.path to a file in the folder that it reads",
    )


def _skipped(report: Report) -> Iterator[Finding]:
    for message in report.skipped:
        yield Finding(
            "skipped",
            "",
            message,
            "it is left out of the metrics and counted in sriov_scrape_collector_skipped",
            "see whether this user may read it; a driver may also have it wrong",
        )


def _leave_out(pf: Pf) -> str:
    return f"--collector.pf-exclude='^{re.escape(pf.netdev)}$'"


RULES: tuple[Callable[[Report], Iterator[Finding]], ...] = (
    _missing_mounts,
    _no_pf,
    _other_namespace,
    _no_netdev,
    _no_vfs,
    _no_counters,
    _only_zeros,
    _wrapped,
    _kubelet,
    _cpu_policy,
    _textfile,
    _skipped,
)
