"""Draws conclusions from a Report: what is wrong, what that means, and what to do.

Each rule below is a generator of findings, and RULES lists them in the order of the printing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator

from sriov_textfile.doctor.report import Finding, Pf, Report, Textfile, Vf

# Drivers that were seen to have no ndo_get_vf_stats.
_SILENT_DRIVERS = ("igb",)
# Drivers that leave a device to a guest or to a program of userspace.
_USERSPACE_DRIVERS = ("vfio-pci", "igb_uio", "uio_pci_generic", "pci-stub")
_MOST_SKIPPED = 20


def findings(report: Report) -> list[Finding]:
    """Return everything that keeps a metric away or makes it doubtful."""
    found = [finding for rule in RULES for finding in rule(report)]
    return found + list(_unexplained(report, {finding.code for finding in found}))


def _missing_mounts(report: Report) -> Iterator[Finding]:
    meanings = {
        "path.sysbuspci": "no PF and no VF can be found; a container without the host's /sys looks"
        " like this",
        "path.sysclassnet": "the sysfs reader finds no counters; a container without the host's"
        " /sys looks like this",
        "path.nodecpuinfo": "kubepodcpu fails: there is no sriov_cpu_info and no sriov_kubepodcpu",
        "path.kubecgroup": "kubepodcpu fails: there is no sriov_kubepodcpu",
        "path.cpucheckpoint": "the shared pool is not known: containers that run on it may seem to"
        " have CPUs to themselves in sriov_kubepodcpu",
    }
    for problem in [*report.paths, *report.cpus.problems]:
        flag = f"--{problem.flag}"
        yield Finding(
            "missing-mount",
            flag,
            problem.reason,
            meanings[problem.flag],
            problem.mend
            or f"correct {flag}; in a container, mount the host's files there as the manifests in"
            f" deployment/ do; if they are there, run as a user who may read them",
        )


def _collectors_off(report: Report) -> Iterator[Finding]:
    if not _is_on(report, "vfstats"):
        yield Finding(
            "collector-off",
            "vfstats",
            "--collector.vfstats is off",
            "there are no sriov_vf_* counters",
            "remove --collector.vfstats=false or --no-collector.vfstats, unless that is meant",
        )


def _no_pf(report: Report) -> Iterator[Finding]:
    if report.pfs or report.paths:
        return
    if report.left_out:
        yield Finding(
            "no-pf",
            "",
            f"--collector.pf-include or pf-exclude leaves out every PF ({report.left_out})",
            "there are no sriov_vf_* and sriov_pf_* metrics",
            "correct the two regular expressions: they are searched for in the PF's netdev",
        )
    elif not any(message.startswith("cannot read PCI device") for message in report.skipped):
        yield Finding(
            "no-pf",
            "",
            "no network device of this host can have VFs (none has sriov_totalvfs)",
            "there are no sriov_vf_* and sriov_pf_* metrics; this is right for a host without"
            " SR-IOV, and for a virtual machine that was given VFs",
            "turn SR-IOV on in the firmware of host and NIC, and load the PF's driver",
        )


def _other_namespace(report: Report) -> Iterator[Finding]:
    unknown = [pf for pf in report.pfs if pf.unknown_here]
    if not any(_failure(pf, "netlink") for pf in unknown):
        return  # A collection has no use for them, or sysfs had everything.
    names = ", ".join(pf.netdev for pf in unknown)
    if len(unknown) == len([pf for pf in report.pfs if pf.netdev]):
        yield Finding(
            "wrong-network-namespace",
            names,
            f"sysfs shows PFs whose netdevs the kernel does not know here: {names}",
            "this is not the host's network namespace, and rtnetlink tells nothing of the host's"
            " PFs: the netlink reader has no counters, vfinfo no configuration",
            "run in the host's network namespace; in a pod: hostNetwork: true",
        )
    else:
        yield Finding(
            "netdev-gone",
            names,
            f"sysfs showed netdevs that the kernel does not know: {names}",
            "they were removed or renamed meanwhile, or moved to another network namespace",
            "run doctor again",
        )


def _failure(pf: Pf, name: str) -> str:
    return next(reader.failure for reader in pf.readers if reader.name == name)


def _is_on(report: Report, name: str) -> bool:
    return any(collector.name == name for collector in report.collectors)


def _failed_readers(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        for reader in pf.readers:
            if reader.failure and not (reader.name == "netlink" and pf.unknown_here):
                yield Finding(
                    "reader-failed",
                    pf.netdev,
                    f"the {reader.name} reader fails for {pf.netdev}: {reader.failure}",
                    "what it should give is missing unless another reader has it, and"
                    " sriov_scrape_collector_success is 0",
                    "see dmesg for what the driver says; allow more time with --timeout if it is"
                    " slow",
                )


def _too_slow(report: Report) -> Iterator[Finding]:
    seconds = sum(collector.seconds for collector in report.collectors)
    if seconds > report.seconds_allowed:
        each = ", ".join(f"{one.name} {one.seconds:.1f} s" for one in report.collectors)
        yield Finding(
            "too-slow",
            "",
            f"the collectors took {seconds:.1f} s ({each}), and --timeout allows"
            f" {report.seconds_allowed:g} s",
            "a collection that takes as long writes nothing",
            "set a longer --timeout; leave out PFs that nobody needs with --collector.pf-exclude",
        )


# What explains the failure of a collector, if it is found. One that is not here explains itself.
_EXPLAINED = {
    "vfstats": {"missing-mount", "wrong-network-namespace", "netdev-gone", "reader-failed"},
    "vfinfo": {"missing-mount", "wrong-network-namespace", "netdev-gone", "reader-failed"},
    "pfinfo": {"missing-mount"},
    "kubepoddevice": {"kubelet"},
    "kubepodcpu": {"missing-mount"},
}


def _unexplained(report: Report, codes: set[str]) -> Iterator[Finding]:
    for collector in report.collectors:
        if not collector.success and not codes & _EXPLAINED.get(collector.name, set()):
            yield Finding(
                "collector-failed",
                collector.name,
                f"{collector.name} fails: {'; '.join(collector.problems)}",
                "its metrics are missing or not complete, and sriov_scrape_collector_success is 0",
                "see what the message says; allow more time with --timeout if something is slow",
            )


def _no_netdev(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        if pf.netdev:
            continue
        if pf.driver in _USERSPACE_DRIVERS:
            meaning = "the PF belongs to a guest or to a program in userspace"
            mend = "bind the PF to its network driver, unless that is meant"
        elif not pf.driver:
            meaning = "no driver has the PF"
            mend = "load its driver; if that failed, dmesg says why"
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
            f"{mend}. To leave out every PF without netdev: {_leave_out(pf)}",
        )


def _no_vfs(report: Report) -> Iterator[Finding]:
    for pf in {pf.address: pf for pf in report.pfs if not pf.vfs}.values():
        name = pf.netdev or pf.address
        create = (
            f"echo N > /sys/bus/pci/devices/{pf.address}/sriov_numvfs, or let the SR-IOV operator"
            " do it"
            if pf.total_vfs
            else "turn SR-IOV on in the NIC's firmware or in the driver's parameters"
        )
        yield Finding(
            "no-vfs",
            name,
            f"{name} has no VFs, and could have {pf.total_vfs}",
            "there are no sriov_vf_* metrics for it",
            f"{create}; if none are wanted: {_leave_out(pf)}",
        )


def _no_counters(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        without = [vf for vf in pf.vfs if not vf.counters]
        explained = pf.unknown_here or any(reader.failure for reader in pf.readers)
        if not without or not pf.netdev or explained or not _is_on(report, "vfstats"):
            continue
        yield Finding(
            "no-counters",
            pf.netdev,
            f"no reader has counters for {len(without)} of the {len(pf.vfs)} VFs of {pf.netdev}",
            "; ".join(f"{reader.name}: {reader.why_not}" for reader in pf.readers),
            f"switch readers on, if one is off; else see what driver {pf.driver} can do"
            " (docs/hardware.md): a newer kernel or the vendor's own driver may count",
        )


def _only_zeros(report: Report) -> Iterator[Finding]:
    for pf in report.pfs:
        served = {reader.name: reader.vfs for reader in pf.readers}
        counters = [vf.counters for vf in pf.vfs if vf.counters]
        if not served["netlink"] or any(any(values.values()) for values in counters):
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
            f"{meaning}; the kernel then reports zeros, which look the same as those of idle VFs",
            "use a driver that provides counters (docs/hardware.md); until then leave the zeros"
            f" out: {_leave_out(pf)}",
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
                "what this program writes is complete; ip, pyroute2 and exporters that believe the"
                " length show few of these VFs or none",
                "nothing for these metrics; do not check them with other tools",
            )


def _kubelet(report: Report) -> Iterator[Finding]:
    kubelet = report.kubelet
    if kubelet.wanted and kubelet.problem:
        yield Finding(
            "kubelet",
            kubelet.socket,
            kubelet.problem.reason,
            "it is not known which pod holds which VF: there is no sriov_kubepoddevice",
            kubelet.problem.mend or "see what the kubelet logs: journalctl -u kubelet",
        )


def _cpu_policy(report: Report) -> Iterator[Finding]:
    cpus = report.cpus
    if cpus.wanted and cpus.policy not in ("", "static"):
        yield Finding(
            "cpu-manager-policy",
            "",
            f"the kubelet's CPU manager has the policy {cpus.policy}",
            "no container has CPUs to itself, so there is no sriov_kubepodcpu",
            "set cpuManagerPolicy: static in the kubelet's configuration, if pods shall have"
            " exclusive CPUs; else turn kubepodcpu off",
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
            f"there is no folder {folder}",
            f"{path} cannot be written, and node_exporter has nothing to read",
            "make the folder, or correct --textfile.path; in a container mount it",
        )
        return
    if textfile.problem:
        yield Finding(
            "textfile-path",
            path,
            textfile.problem,
            f"whether {path} is written and read is not known",
            "run as a user who may look there, or correct --textfile.path",
        )
    elif not textfile.writable:
        yield Finding(
            "textfile-not-writable",
            folder,
            f"{report.user} cannot write into {folder}",
            f"{path} cannot be written by this user and stays as it is",
            f"run as a user who may, or let this one: chgrp and chmod g+w {shlex.quote(folder)}; if"
            " the file system is read-only, mount it writable (in a service: ReadWritePaths=)",
        )
    yield from _unread(textfile)
    if textfile.age_seconds is None and not textfile.problem:
        yield Finding(
            "textfile-missing",
            path,
            f"there is no {path}",
            "nothing has been written yet",
            "start what writes it (systemctl start sriov-textfile.timer, cron, the sidecar), and"
            " look at its log",
        )
    elif (textfile.age_seconds or 0) > textfile.stale_after_seconds:
        yield Finding(
            "textfile-stale",
            path,
            f"{path} was written {textfile.age_seconds:.0f} s ago",
            "Prometheus still takes its numbers for new ones, and rates are 0",
            "see why nothing writes it: systemctl status 'sriov-textfile*' and the journal, or the"
            " log of the container",
        )


def _unread(textfile: Textfile) -> Iterator[Finding]:
    if any(one.reads_ours is not False for one in textfile.node_exporters):
        return
    if textfile.node_exporters:
        others = ", ".join(
            f"process {one.pid} reads {' and '.join(one.folders) or 'no folder at all'}"
            for one in textfile.node_exporters
        )
        what = f"no node_exporter reads {textfile.folder}: {others}"
    elif textfile.sees_processes:
        what = f"no node_exporter runs on this host, so none reads {textfile.folder}"
    else:
        return  # A container does not see the host's processes: nothing is known.
    yield Finding(
        "textfile-not-read",
        textfile.folder,
        what,
        "what is written there does not reach Prometheus",
        f"start node_exporter with --collector.textfile.directory={shlex.quote(textfile.folder)},"
        " or set --textfile.path to a file in the folder that it reads",
    )


def _skipped(report: Report) -> Iterator[Finding]:
    told = tuple(problem.reason for problem in report.cpus.problems)
    skipped = [message for message in report.skipped if not message.endswith(told)]
    for message in skipped[:_MOST_SKIPPED]:
        yield Finding(
            "skipped",
            "",
            message,
            "it is left out of the metrics and counted in sriov_scrape_collector_skipped",
            "see whether this user may read it; the driver may be at fault, too",
        )
    if more := len(skipped[_MOST_SKIPPED:]):
        yield Finding(
            "skipped",
            "",
            f"{more} more inputs cannot be read",
            "they are left out of the metrics, too",
            "see them all with --json",
        )


def _leave_out(pf: Pf) -> str:
    return f"--collector.pf-exclude={shlex.quote(f'^{re.escape(pf.netdev)}$')}"


RULES: tuple[Callable[[Report], Iterator[Finding]], ...] = (
    _missing_mounts,
    _collectors_off,
    _no_pf,
    _other_namespace,
    _failed_readers,
    _too_slow,
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
