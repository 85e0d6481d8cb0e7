"""Reads the machine into a Report: collectors, inventory and the .prom file."""

from __future__ import annotations

import os
import pwd
import stat
import threading  # noqa: F401  # before pyroute2 does so in a task; see deadline.Task
import time

from sriov_textfile import __version__, gather, inventory
from sriov_textfile.collectors import COLLECTORS
from sriov_textfile.config import Config
from sriov_textfile.doctor import node_exporter
from sriov_textfile.doctor.report import CollectorResult, Report, Textfile
from sriov_textfile.host import nic
from sriov_textfile.log import Log
from sriov_textfile.snapshot import Snapshot
from sriov_textfile.snapshots import Snapshots

# Timers and cron jobs write at least once a minute.
_STALE_SECONDS = 300.0
_GRACE_SECONDS = 5.0  # for reads that have no time limit of their own


def examine(config: Config, describe_nic: inventory.DescribeNic | None = None) -> Report:
    """Return the facts about the machine, without findings. Raises SnapshotError."""
    log = Log("error")  # Doctor reports what a collection would log.
    # Twice the time of a collection, so that doctor also finishes on a host that is too slow.
    limit = 2 * config.timeout + _GRACE_SECONDS
    snapshots = Snapshots(config, log, "doctor", limit, gather.memory(config))
    snapshot = snapshots.new(config.timeout)
    return snapshots.read(snapshot, lambda: _examine(snapshot, describe_nic or nic.describe), limit)


def _examine(snapshot: Snapshot, describe_nic: inventory.DescribeNic) -> Report:
    config = snapshot.config
    names: set[str] = set()
    collectors = [
        gather.run(collector, snapshot, names)
        for collector in COLLECTORS
        if collector.name in config.collectors
    ]
    found = inventory.take(snapshot, describe_nic)
    snapshot.reading = config.textfile_path
    system = os.uname()
    return Report(
        version=__version__,
        host=system.nodename,
        kernel=f"{system.sysname} {system.release}",
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        user=_user(),
        timeout_seconds=config.timeout,
        pf_exclude=config.pf_exclude.pattern if config.pf_exclude else "",
        collectors=[
            CollectorResult(run.name, not run.failed, run.seconds, run.skips) for run in collectors
        ],
        failed=snapshot.failed,
        skipped=snapshot.skipped,
        inventory=found,
        textfile=_textfile(config) if config.textfile_path else None,
    )


def _textfile(config: Config) -> Textfile:
    path = config.textfile_path
    if not os.path.isabs(path):
        path = os.path.join(os.getcwd(), path)
    folder = os.path.dirname(path)
    folder_exists, age, problem = True, None, ""
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            problem = f"{folder} is not a directory"
        elif _is_full(os.statvfs(folder)):
            problem = f"no space left in {folder}"
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        folder_exists = error.filename != folder
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
    else:
        age = max(0.0, time.time() - status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            problem = f"{path} is a directory, not a file"
    return Textfile(
        path=path,
        folder=folder,
        folder_exists=folder_exists,
        writable=os.access(folder, os.W_OK | os.X_OK),
        problem=problem,
        age_seconds=age,
        stale_after_seconds=max(_STALE_SECONDS, 3 * config.interval),
        node_exporters=node_exporter.running(folder),
        sees_processes=node_exporter.sees_processes(),
    )


def _is_full(disk: os.statvfs_result) -> bool:
    # A file system in memory may have no size at all.
    return disk.f_blocks > 0 and not disk.f_bavail


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # A container's user may have no passwd entry.
        return f"uid {os.geteuid()}"
