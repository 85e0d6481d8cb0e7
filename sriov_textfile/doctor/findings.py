"""Draws conclusions from a Report: what is wrong, what it means, and what to do.

Each rule is a generator of findings, and RULES has them in output order. A problem that a
collection would log becomes a finding without a rule of its own, unless a rule explains it better.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator

from sriov_textfile.doctor import drivers
from sriov_textfile.doctor.report import Finding, Report, Textfile
from sriov_textfile.host import pci, rtnetlink
from sriov_textfile.inventory import Pf, Vf
from sriov_textfile.problems import Problem, counted

_MAX_PER_CODE = 20

# What a problem means: by subject if that is a flag, otherwise by code.
_MEANINGS = {
    "--path.sysbuspci": "no PFs or VFs can be found, as in a container without the host's /sys",
    "--path.sysclassnet": "the sysfs reader finds no counters, as in a container without the host's"
    " /sys",
    "--path.nodecpuinfo": "kubepodcpu fails: sriov_cpu_info and sriov_kubepodcpu are missing",
    "--path.kubecgroup": "kubepodcpu fails: sriov_kubepodcpu is missing",
    "--path.cpucheckpoint": "the shared pool is unknown: sriov_kubepodcpu may list containers that"
    " run in the pool",
    "rtnetlink": "configuration and counters that only rtnetlink has are missing, and"
    " sriov_scrape_collector_success is 0",
    "reader-failed": "counters are missing unless another reader has them, and"
    " sriov_scrape_collector_success is 0",
    "emsgsize": "the kernel reserves too little space for this number of VFs: everything that only"
    " rtnetlink has is missing for this PF, and sriov_scrape_collector_success is 0",
    "held-back": "if they were exported as 0 and the old values came back, Prometheus would see a"
    " reset and add the old values to rates; instead the counters are missing",
    "kubelet": "it is unknown which pod uses which VF: sriov_kubepoddevice is missing",
    "kubelet-not-ready": "devices and CPUs of some pods are missing until the kubelet lists them",
    "missing-package": "the collector that needs it exports no metrics",
    "web-config": "serve does not start, or refuses all requests until the file is right",
    "unexpected": "metrics are missing or incomplete, and sriov_scrape_collector_success is 0",
    "unreadable-device": "if it is a PF, all of its metrics are missing",
    "unreadable": "it is left out of the metrics and counted in sriov_scrape_collector_skipped",
    "bad-counter": "the counter is left out and counted in sriov_scrape_collector_skipped",
    "repeated-series": "the first value is exported, the second is counted in"
    " sriov_scrape_collector_skipped",
}
_HINTS = {
    "unreadable-device": "check that this user can read it; if so, see dmesg for driver messages",
    "unreadable": "check that this user can read it; if so, see dmesg for driver messages",
    "bad-counter": "the driver publishes it this way: try a newer driver",
    "repeated-series": "find what shares these labels: two PCI devices with the same VF (ls -l"
    " /sys/bus/pci/devices/*/virtfn*), or two pods with the same name (crictl pods)",
    "web-config": "correct the file; docs/https.md describes it",
}
_DEFAULT_HINT = "see dmesg and the log of the service"
# Problems that a rule combines into findings of its own.
_COMBINED = ("unknown-netdev",)


def findings(report: Report) -> list[Finding]:
    """Return a finding for everything that makes a metric missing or unreliable."""
    return [finding for rule in RULES for finding in rule(report)]


def _problems(report: Report) -> Iterator[Finding]:
    """Yield a finding for each problem; if a code has too many, the last one counts the rest."""
    shown: dict[str, int] = {}
    unlisted = [report.inventory.problem] if report.inventory.problem else []
    for problem in _distinct([*unlisted, *report.failed, *report.skipped]):
        if problem.code in _COMBINED:
            continue
        shown[problem.code] = shown.get(problem.code, 0) + 1
        if shown[problem.code] <= _MAX_PER_CODE:
            yield _finding(problem)
    for code, count in shown.items():
        if count > _MAX_PER_CODE:
            yield Finding(
                code,
                "",
                f"{count - _MAX_PER_CODE} more problems of this kind",
                _MEANINGS.get(code, ""),
                "use --json to see all of them",
            )


def _finding(problem: Problem) -> Finding:
    meaning = _MEANINGS.get(problem.subject) or _MEANINGS.get(problem.code, "")
    hint = problem.hint or _HINTS.get(problem.code, _DEFAULT_HINT)
    return Finding(problem.code, problem.subject, problem.reason, meaning, hint)


def _distinct(problems: list[Problem]) -> list[Problem]:
    """Return the problems without duplicates: two collectors may report the same one."""
    found = {(problem.code, problem.subject, problem.reason): problem for problem in problems}
    return list(found.values())


def _missing_netdevs(report: Report) -> Iterator[Finding]:
    """Find a --path.sysclassnet that is not the host's: none of the PFs' netdevs is in it."""
    pfs = [pf for pf in report.inventory.pfs if pf.netdev and pf.vfs and _asked(pf, "sysfs")]
    if pfs and not any(pf.netdev_in_sysfs for pf in pfs):
        flag = "--path.sysclassnet"
        yield Finding(
            "missing-mount",
            flag,
            f"{flag} has none of the PFs' netdevs ({pfs[0].netdev} …)",
            _MEANINGS[flag],
            f"set {flag}; in a container, mount it from the host",
        )


def _asked(pf: Pf, name: str) -> bool:
    return any(reader.asked for reader in pf.readers if reader.name == name)


def _collectors_off(report: Report) -> Iterator[Finding]:
    if not _is_on(report, "vfstats"):
        yield Finding(
            "collector-off",
            "vfstats",
            "--collector.vfstats is off",
            "there are no sriov_vf_* counters",
            "remove --collector.vfstats=false or --no-collector.vfstats, unless this is intended",
        )


def _is_on(report: Report, name: str) -> bool:
    return any(collector.name == name for collector in report.collectors)


def _no_pf(report: Report) -> Iterator[Finding]:
    found = report.inventory
    if found.pfs or found.problem:
        return
    if found.left_out:
        yield Finding(
            "no-pf",
            "",
            f"--collector.pf-include or --collector.pf-exclude leaves out every PF"
            f" ({found.left_out})",
            "there are no sriov_vf_* or sriov_pf_* metrics",
            "correct the two regular expressions: they match anywhere in the PF's netdev name",
        )
    elif not any(problem.code == "unreadable-device" for problem in report.skipped):
        yield Finding(
            "no-pf",
            "",
            "no network device on this host supports SR-IOV (none has sriov_totalvfs)",
            "there are no sriov_vf_* or sriov_pf_* metrics; this is normal on a host without"
            " SR-IOV, and in a virtual machine that VFs are assigned to",
            "enable SR-IOV in the firmware of host and NIC, and load the PF's driver",
        )


def _other_namespace(report: Report) -> Iterator[Finding]:
    if not any(problem.code == "unknown-netdev" for problem in report.failed):
        return  # No collector requests these netdevs from the kernel.
    pfs = [pf for pf in report.inventory.pfs if pf.netdev]
    unknown = [pf for pf in pfs if pf.link_problem and pf.link_problem.code == "unknown-netdev"]
    names = ", ".join(pf.netdev for pf in unknown)
    if len(unknown) == len(pfs):
        yield Finding(
            "wrong-network-namespace",
            names,
            f"sysfs has PFs whose netdevs are not in this network namespace: {names}",
            "this is not the host's network namespace, and rtnetlink does not show the host's PFs:"
            " the netlink reader has no counters, and vfinfo has no configuration",
            "run in the host's network namespace; in a pod: hostNetwork: true",
        )
    else:
        yield Finding(
            "netdev-gone",
            names,
            f"sysfs listed netdevs that the kernel no longer has: {names}",
            "they were removed or renamed in the meantime, or moved to another network namespace",
            "run doctor again",
        )


def _too_slow(report: Report) -> Iterator[Finding]:
    seconds = sum(collector.seconds for collector in report.collectors)
    if seconds > report.timeout_seconds:
        each = ", ".join(
            f"{collector.name} {collector.seconds:.1f} s" for collector in report.collectors
        )
        yield Finding(
            "too-slow",
            "",
            f"the collectors took {seconds:.1f} s ({each}); --timeout is"
            f" {report.timeout_seconds:g} s",
            "a collection that exceeds --timeout writes nothing",
            "set a longer --timeout, or leave out PFs with --collector.pf-exclude",
        )


def _no_netdev(report: Report) -> Iterator[Finding]:
    for pf in report.inventory.pfs:
        if pf.netdev:
            continue
        if pci.is_userspace(pf.driver):
            meaning = "the PF is assigned to a virtual machine or to a program in userspace"
            hint = "bind the PF to its network driver, unless this is intended"
        elif not pf.driver:
            meaning = "the PF has no driver"
            hint = "load its driver; if that fails, see dmesg"
        elif pf.kind == "InfiniBand":
            meaning = "an InfiniBand PF has a netdev only with IP over InfiniBand"
            hint = "run modprobe ib_ipoib; if the host has the netdev, run in its network namespace"
        else:
            meaning = "its netdev is not in the network namespace of this program or of its /sys"
            hint = "run in the host's network namespace; in a pod: hostNetwork: true"
        yield Finding(
            "no-netdev",
            pf.address,
            f"PF {pf.address} (driver {pf.driver or 'none'}) has no netdev",
            f"{meaning}: no reader has counters for its VFs",
            f"{hint}. To leave out every PF without a netdev: {_leave_out(report)}",
        )


def _no_vfs(report: Report) -> Iterator[Finding]:
    for pf in {pf.address: pf for pf in report.inventory.pfs if not pf.vfs}.values():
        name = pf.netdev or pf.address
        create = (
            f"echo N > /sys/bus/pci/devices/{pf.address}/sriov_numvfs, or use the SR-IOV operator"
            if pf.total_vfs
            else "enable SR-IOV in the NIC's firmware or with a driver parameter"
        )
        yield Finding(
            "no-vfs",
            name,
            f"{name} has no VFs; it supports {pf.total_vfs}",
            "there are no sriov_vf_* metrics for it",
            f"{create}. If it should have none: {_leave_out(report)}",
        )


def _no_counters(report: Report) -> Iterator[Finding]:
    for pf in report.inventory.pfs:
        without = [vf for vf in pf.vfs if not vf.counters and vf.held_back_since is None]
        explained = any(reader.failure for reader in pf.readers)
        if not without or not pf.netdev or explained or not _is_on(report, "vfstats"):
            continue
        row = drivers.row(pf)
        if row and row.no_list:
            hint = f"driver {pf.driver} does not describe its VFs to the kernel (docs/hardware.md)"
        else:
            hint = (
                f"switch on a reader that is off; otherwise check what driver {pf.driver} supports"
                " (docs/hardware.md): a newer kernel or the vendor's driver may have VF counters"
            )
        yield Finding(
            "no-counters",
            pf.netdev,
            f"no reader has counters for {len(without)} of {counted(len(pf.vfs), 'VF')} of"
            f" {pf.netdev}",
            "; ".join(f"{reader.name}: {reader.why_not}" for reader in pf.readers),
            hint,
        )


def _only_zeros(report: Report) -> Iterator[Finding]:
    for pf in report.inventory.pfs:
        if not _has_only_zeros(pf):
            continue
        count = sum(bool(vf.counters) for vf in pf.vfs)
        evidence = _evidence(pf)
        although = f", although {evidence[0]}" if evidence else ""
        hint = (
            "use a driver with VF counters (docs/hardware.md); until then leave the zeros out:"
            f" {_leave_out(report)}"
        )
        if _may_be_resetting(pf):
            hint = (
                "run doctor again in some minutes, and look for resets with dmesg; if the counters"
                " stay 0, use a newer kernel or driver (docs/hardware.md)"
            )
        yield Finding(
            "only-zeros",
            pf.netdev,
            f"all counters of the {counted(count, 'VF')} of {pf.netdev} are 0{although}",
            f"{_why_zeros(pf)}; without VF counters the kernel reports 0, indistinguishable"
            " from idle VFs",
            hint,
        )


def _has_only_zeros(pf: Pf) -> bool:
    """Whether all counters are 0 although a VF is in use or the driver has no VF counters."""
    served = {reader.name: reader.vfs for reader in pf.readers}
    counters = [vf.counters for vf in pf.vfs if vf.counters]
    above_0 = any(any(values.values()) for values in counters)
    has_counted = above_0 or any(vf.held_back_since is not None for vf in pf.vfs)
    if not (served["netlink"] and counters) or has_counted:
        return False
    row = drivers.row(pf)
    return bool(_evidence(pf) or (row and row.zeros))


def _why_zeros(pf: Pf) -> str:
    row = drivers.row(pf)
    if row is None:
        return f"either all of them are idle, or driver {pf.driver} has no VF counters"
    if row.zeros:
        return f"driver {pf.driver} has no VF counters"
    return (
        f"either all of them are idle, or the NIC is resetting, or driver {pf.driver}, which has VF"
        " counters in current kernels, has none in this one"
    )


def _may_be_resetting(pf: Pf) -> bool:
    """Whether zeros can be those that the kernel reports while a driver with counters resets."""
    row = drivers.row(pf)
    return row is not None and not row.zeros


def _evidence(pf: Pf) -> list[str]:
    return [text for vf in pf.vfs if (text := _in_use(vf))]


def _in_use(vf: Vf) -> str:
    """Return evidence that a VF is in use, or "" if there is none."""
    if vf.netdev_packets:
        return f"{vf.netdev} (VF {vf.number}) has itself counted {vf.netdev_packets} packets"
    if vf.pods:
        return f"pod {vf.pods[0]} uses VF {vf.number}"
    if pci.is_userspace(vf.driver):
        return f"VF {vf.number} is bound to {vf.driver} for a virtual machine or DPDK"
    return ""


def _wrapped(report: Report) -> Iterator[Finding]:
    for pf in report.inventory.pfs:
        if pf.vf_list_wrapped:
            yield Finding(
                "more-vfs-than-other-tools-see",
                pf.netdev,
                f"the kernel's list of the {len(pf.vfs)} VFs of {pf.netdev} is longer than its"
                " 16-bit length field can express",
                "the metrics are complete; ip, pyroute2 and exporters that trust the length show"
                " few of these VFs or none",
                "nothing to fix for these metrics; do not compare them with other tools",
            )


def _dumped(report: Report) -> Iterator[Finding]:
    for pf in report.inventory.pfs:
        if pf.vf_list_dumped:
            yield Finding(
                "emsgsize",
                pf.netdev,
                f"the kernel describes {pf.netdev} with its {counted(len(pf.vfs), 'VF')} only in a"
                " dump of all links: for one message it reserves too little space (EMSGSIZE)",
                "the metrics are complete, but each collection makes the kernel describe the VFs of"
                " all PFs, some of them twice; the first collection of a process, which is each run"
                " of a timer, also leaves a warning in the kernel's log",
                f"{rtnetlink.EMSGSIZE_HINT}; until then, a loop or serve is better than a timer",
            )


def _rdma(report: Report) -> Iterator[Finding]:
    found = report.inventory
    if not (_is_on(report, "vfrdma") and found.pfs):
        return
    if not any(pf.rdma_devices or any(vf.rdma_devices for vf in pf.vfs) for pf in found.pfs):
        yield Finding(
            "no-rdma",
            "",
            "no PF or VF has an RDMA device in this network namespace",
            "there are no sriov_vf_rdma_* metrics",
            "load the RDMA driver of the NIC, such as mlx5_ib, irdma or bnxt_re; otherwise turn"
            " vfrdma off",
        )
    for pf in found.pfs:
        hidden = [vf for vf in pf.vfs if not vf.rdma_devices and _has_kernel_driver(vf)]
        if found.rdma_shared is False and pf.rdma_devices and hidden:
            yield Finding(
                "rdma-exclusive",
                pf.netdev or pf.address,
                f"{len(hidden)} of {counted(len(pf.vfs), 'VF')} of {pf.netdev or pf.address} have"
                " no RDMA device in this network namespace, and the RDMA subsystem is in exclusive"
                " mode",
                "a device that was moved to a pod is visible only there: its sriov_vf_rdma_*"
                " metrics are missing on the host",
                "put options ib_core netns_mode=1 into /etc/modprobe.d and reboot, unless pods must"
                " have their devices to themselves",
            )


def _has_kernel_driver(vf: Vf) -> bool:
    return bool(vf.driver) and not pci.is_userspace(vf.driver)


def _numa_misaligned(report: Report) -> Iterator[Finding]:
    for container in report.inventory.kubelet.containers:
        cpus = set(container.cpu_numa_nodes)
        # A device may be local to several nodes, and CPUs on one of them suffice.
        elsewhere = {
            node
            for device in container.devices
            if cpus.isdisjoint(device.numa_nodes)
            for node in device.numa_nodes
        }
        if cpus and elsewhere:
            yield Finding(
                "numa-misaligned",
                container.name,
                f"{container.name} has devices on NUMA node {_listed(elsewhere)}, but its"
                f" exclusive CPUs are on node {_listed(cpus)}",
                "every packet crosses the interconnect between the processors",
                "set topologyManagerPolicy: single-numa-node in the kubelet's configuration, and"
                " recreate the pod",
            )


def _listed(nodes: set[str]) -> str:
    return ", ".join(sorted(nodes))


def _cpu_policy(report: Report) -> Iterator[Finding]:
    cpus = report.inventory.cpus
    if cpus.enabled and cpus.policy not in ("", "static"):
        yield Finding(
            "cpu-manager-policy",
            "",
            f"the policy of the kubelet's CPU manager is {cpus.policy}",
            "no container has exclusive CPUs, so there is no sriov_kubepodcpu",
            "set cpuManagerPolicy: static in the kubelet's configuration if pods should have"
            " exclusive CPUs; otherwise turn kubepodcpu off",
        )


def _textfile(report: Report) -> Iterator[Finding]:
    textfile = report.textfile
    if textfile is None:
        return
    folder, path = textfile.folder, textfile.path
    if not textfile.folder_exists:
        yield Finding(
            "textfile-folder-missing",
            folder,
            f"the directory {folder} does not exist",
            f"{path} cannot be written, and node_exporter has nothing to read",
            "create the directory, or correct --textfile.path; in a container, mount it",
        )
        return
    if textfile.problem:
        yield Finding(
            "textfile-path",
            path,
            textfile.problem,
            f"it is unknown whether {path} is written and read",
            "run as a user with access, or correct --textfile.path",
        )
    elif not textfile.writable:
        yield Finding(
            "textfile-not-writable",
            folder,
            f"user {report.user} cannot write to {folder}",
            f"this user cannot update {path}",
            f"run as a user with write access, or grant it (chgrp, chmod g+w"
            f" {shlex.quote(folder)}); if the file system is read-only, mount it writable (in a"
            " service: ReadWritePaths=)",
        )
    yield from _unread(textfile)
    yield from _unwritten(textfile)


def _unread(textfile: Textfile) -> Iterator[Finding]:
    if any(exporter.reads_ours is not False for exporter in textfile.node_exporters):
        return
    if textfile.node_exporters:
        others = ", ".join(
            f"process {exporter.pid} reads {' and '.join(exporter.folders) or 'no directory'}"
            for exporter in textfile.node_exporters
        )
        what = f"no node_exporter reads {textfile.folder}: {others}"
    elif textfile.sees_processes:
        what = f"no node_exporter runs on this host, so none reads {textfile.folder}"
    else:
        return  # A container does not see the host's processes.
    yield Finding(
        "textfile-not-read",
        textfile.folder,
        what,
        "files in this directory do not reach Prometheus",
        f"start node_exporter with --collector.textfile.directory={shlex.quote(textfile.folder)},"
        " or set --textfile.path to a file in a directory that it reads",
    )


def _unwritten(textfile: Textfile) -> Iterator[Finding]:
    path = textfile.path
    if textfile.age_seconds is None and not textfile.problem:
        yield Finding(
            "textfile-missing",
            path,
            f"{path} does not exist",
            "nothing has been written yet",
            "start the timer (systemctl start sriov-textfile.timer), cron job or sidecar that"
            " writes it, and read its log",
        )
    elif (textfile.age_seconds or 0) > textfile.stale_after_seconds:
        yield Finding(
            "textfile-stale",
            path,
            f"{path} was written {textfile.age_seconds:.0f} s ago",
            "Prometheus still scrapes the old values, so rates are 0",
            "find out why it is no longer written: systemctl status 'sriov-textfile*' and the"
            " journal, or the log of the container",
        )


def _leave_out(report: Report) -> str:
    """Return the flag that leaves out every PF for which a finding suggests it.

    Of several such flags only the last one applies, so it has the pattern of the report's flags.
    """
    pfs = report.inventory.pfs
    unwanted = {
        pf.netdev
        for pf in pfs
        if not (pf.netdev and pf.vfs) or (_has_only_zeros(pf) and not _may_be_resetting(pf))
    }
    patterns = [f"^{re.escape(netdev)}$" for netdev in sorted(unwanted)]
    whole = "|".join([report.pf_exclude, *patterns] if report.pf_exclude else patterns)
    keep = "; remove from it the PFs that you want to keep" if len(patterns) > 1 else ""
    return f"--collector.pf-exclude={shlex.quote(whole)}{keep}"


RULES: tuple[Callable[[Report], Iterator[Finding]], ...] = (
    _missing_netdevs,
    _collectors_off,
    _no_pf,
    _other_namespace,
    _problems,
    _too_slow,
    _no_netdev,
    _no_vfs,
    _no_counters,
    _only_zeros,
    _wrapped,
    _dumped,
    _rdma,
    _numa_misaligned,
    _cpu_policy,
    _textfile,
)
