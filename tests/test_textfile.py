"""Textfile: always complete, world-readable, and unchanged if a write fails."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sriov_textfile import deadline
from sriov_textfile.outputs import once, textfile
from sriov_textfile.problems import ProblemError
from sriov_textfile.simulate.host import SimulatedPf
from tests.conftest import PROGRAM, WITHOUT_PRIVILEGE, MakeHost, Run

LOCK = ".sriov.prom.lock"
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_the_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    textfile.write(str(path), b"metric 1\n")
    assert path.read_bytes() == b"metric 1\n"
    assert os.listdir(tmp_path) == ["sriov.prom"]


def test_an_old_file_is_replaced_not_modified(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    path.write_bytes(b"old " * 1000)
    with path.open("rb") as reader:
        textfile.write(str(path), b"new\n")
        assert reader.read() == b"old " * 1000
    assert path.read_bytes() == b"new\n"


def test_a_path_without_folder_is_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    textfile.write("sriov.prom", b"metric 1\n")
    assert os.listdir(tmp_path) == ["sriov.prom"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_file_is_world_readable_with_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        textfile.write(str(tmp_path / "sriov.prom"), b"metric 1\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "sriov.prom").stat().st_mode) == 0o644


def test_the_file_name_may_have_the_maximum_length(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".prom")
    textfile.write(str(path), b"metric 1\n")
    assert os.listdir(tmp_path) == [path.name]


def test_the_maximum_length_is_counted_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / ("\U0001f600" * 60 + ".prom")  # 245 bytes in 65 characters
    textfile.write(str(path), b"metric 1\n")
    assert os.listdir(tmp_path) == [path.name]


def test_a_symlink_is_replaced_and_its_target_is_unchanged(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep")
    (tmp_path / "sriov.prom").symlink_to(target)
    textfile.write(str(tmp_path / "sriov.prom"), b"metric 1\n")
    assert target.read_text() == "keep"
    assert not (tmp_path / "sriov.prom").is_symlink()


# --- temporary files --------------------------------------------------------------------


def test_the_temporary_file_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".sriov.prom.4711.00c0ffee.tmp").write_text("half a met")
    textfile.write(str(tmp_path / "sriov.prom"), b"metric 1\n")
    assert os.listdir(tmp_path) == ["sriov.prom"]


def test_the_temporary_file_of_a_concurrent_run_is_kept(tmp_path: Path) -> None:
    temporary = tmp_path / ".sriov.prom.4711.00c0ffee.tmp"
    with temporary.open("w") as other_run:
        fcntl.flock(other_run, fcntl.LOCK_EX)
        textfile.write(str(tmp_path / "sriov.prom"), b"metric 1\n")
        assert sorted(os.listdir(tmp_path)) == [temporary.name, "sriov.prom"]


def test_other_files_are_kept(tmp_path: Path) -> None:
    names = {
        ".sriov.prom~",
        ".sriov.prom.mine.tmp",
        "sriov.prom.1.tmp",
        ".other.prom.1.2.tmp",
        "node.prom",
    }
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / ".sriov.prom.a-pipe.tmp2").mkdir()
    textfile.write(str(tmp_path / "sriov.prom"), b"metric 1\n")
    assert names < set(os.listdir(tmp_path))


def test_the_temporary_file_does_not_end_in_prom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    rename = os.rename

    def spy(source: str, target: str) -> None:
        names.extend(os.listdir(tmp_path))
        rename(source, target)

    monkeypatch.setattr(os, "rename", spy)
    textfile.write(str(tmp_path / "sriov.prom"), b"metric 1\n")
    assert len(names) == 1
    assert not names[0].endswith(".prom")


WRITER = """
import sys
from sriov_textfile.outputs import textfile
version = 0
while True:
    version += 1
    lines = "".join([f'metric{{line="{n}"}} {version}\\n' for n in range(2000)])
    textfile.write(sys.argv[1], f"# START {version}\\n{lines}# END {version}\\n".encode())
"""


def test_a_reader_never_sees_a_partial_file_when_writers_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    textfile.write(str(path), b"# START 0\n# END 0\n")
    reads = 0
    versions = set()
    for seed in range(25):
        before = path.stat().st_ino
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        while path.stat().st_ino == before:
            assert writer.poll() is None
            time.sleep(0.001)
        end = time.monotonic() + 0.05 + random.Random(seed).random() * 0.15
        while time.monotonic() < end:
            text = path.read_text()
            first, *lines, last = text.splitlines()
            assert first.startswith("# START ")
            version = first.split()[-1]
            assert last == f"# END {version}"
            assert len(lines) == (2000 if version != "0" else 0)
            assert all(line.endswith(f" {version}") for line in lines)
            versions.add(version)
            reads += 1
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    assert reads > 100
    assert len(versions) > 10
    textfile.write(str(path), b"metric 1\n")
    assert os.listdir(tmp_path) == ["sriov.prom"]


def test_concurrent_runs_can_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    code = (
        "import sys; from sriov_textfile.outputs import textfile\n"
        "for _ in range(100): textfile.write(sys.argv[1], b'metric 1\\n' * 1000)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [run.wait(60) for run in runs] == [0, 0, 0, 0]
    assert os.listdir(tmp_path) == ["sriov.prom"]


# --- one writer at a time ---------------------------------------------------------------


def test_a_second_writer_waits_until_the_first_has_written(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    path.write_bytes(b"metric 1\n")
    first = textfile.acquire(str(path), 1)
    threading.Timer(0.2, os.close, [first]).start()
    start = time.monotonic()
    second = textfile.acquire(str(path), 5)
    assert time.monotonic() - start >= 0.2
    os.close(second)


@pytest.mark.parametrize("exists", [True, False], ids=["a file", "no file"])
def test_a_writer_does_not_wait_forever(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "sriov.prom"
    if exists:
        path.touch()
    first = textfile.acquire(str(path), 1)
    with pytest.raises(ProblemError, match="another process is writing"):
        textfile.acquire(str(path), 0.1)
    os.close(first)


def test_the_lock_outlives_the_file_that_it_protects(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    first = textfile.acquire(str(path), 1)
    for _ in range(2):
        textfile.write(str(path), b"metric 1\n", first)
        with pytest.raises(ProblemError):
            textfile.acquire(str(path), 0)
    path.unlink()
    with pytest.raises(ProblemError):
        textfile.acquire(str(path), 0)
    os.close(first)


def test_the_lock_of_a_killed_writer_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    code = (
        "import sys, time; from sriov_textfile.outputs import textfile\n"
        "textfile.acquire(sys.argv[1], 1); print('locked', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout
    assert writer.stdout.readline() == b"locked\n"
    with pytest.raises(ProblemError):
        textfile.acquire(str(path), 0)
    writer.kill()
    writer.communicate()
    os.close(textfile.acquire(str(path), 0))


def test_writers_of_other_files_in_the_folder_do_not_wait(tmp_path: Path) -> None:
    locks = [textfile.acquire(str(tmp_path / name), 0) for name in ("a.prom", "b.prom")]
    for lock in locks:
        os.close(lock)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_run_leaves_a_lock_file_that_only_its_user_can_open(
    make_host: MakeHost, tmp_path: Path, umask: int
) -> None:
    path = tmp_path / "textfile/sriov.prom"
    path.parent.mkdir()
    host = make_host(SimulatedPf())
    before = os.umask(umask)
    try:
        runs = [host.collect(f"--textfile.path={path}") for _ in range(2)]
    finally:
        os.umask(before)
    assert [run.code for run in runs] == [0, 0]
    assert sorted(os.listdir(path.parent)) == [LOCK, "sriov.prom"]
    status = (path.parent / LOCK).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as another user")
def test_a_user_who_can_read_the_file_cannot_lock_it(make_host: MakeHost, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "sriov.prom"
    host = make_host(SimulatedPf())
    assert host.collect(f"--textfile.path={path}").code == 0
    script = f"""
        flock {LOCK} echo the lock file
        flock {path} sh -c 'echo the file; flock . sh -c "echo its folder; cat"'
    """
    other = subprocess.Popen(
        [*AS_NOBODY, "sh", "-c", script],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert other.stdout
    assert [other.stdout.readline() for _ in range(2)] == [b"the file\n", b"its folder\n"]
    run = host.collect(f"--textfile.path={path}", "--timeout=300ms")
    other.communicate()
    assert (run.code, run.log) == (0, "")


def plant(kind: str, place: Path) -> None:
    """Create what another user may put in place of the lock file."""
    if kind == "file":
        place.touch(mode=0)
    elif kind == "symlink":
        place.symlink_to(place.with_name("precious"))
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()


WITH_OTHERS_LOCK = """
import sys
from sriov_textfile.outputs import textfile
from sriov_textfile.problems import ProblemError
try:
    textfile.write(sys.argv[1], b"new\\n", textfile.acquire(sys.argv[1], float(sys.argv[2])))
except (OSError, ProblemError) as error:
    print(error)
"""


def write_without_privilege(path: Path, seconds: float = 0.1) -> str:
    """Write the file as a user who cannot bypass permissions; return the error."""
    command = [*WITHOUT_PRIVILEGE, sys.executable, "-c", WITH_OTHERS_LOCK, str(path)]
    command.append(str(seconds))
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("kind", ["file", "symlink", "pipe"])
def test_a_lock_file_that_cannot_be_opened_is_replaced(tmp_path: Path, kind: str) -> None:
    (tmp_path / "precious").write_text("keep")
    path = tmp_path / "sriov.prom"
    plant(kind, tmp_path / LOCK)
    assert write_without_privilege(path) == ""
    assert path.read_text() == "new\n"
    status = (tmp_path / LOCK).lstat()
    assert status.st_mode == stat.S_IFREG | 0o600
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_lock_file_that_cannot_be_replaced_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    plant("folder", tmp_path / LOCK)
    message = f"cannot lock {path}: {tmp_path / LOCK} is not a lock file of this user; remove it\n"
    assert write_without_privilege(path) == message


def test_a_user_without_access_to_the_folder_does_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    plant("file", tmp_path / LOCK)
    tmp_path.chmod(0o555)
    assert "Permission denied" in write_without_privilege(path, seconds=3600)


def test_a_writer_whose_lock_was_replaced_does_not_write(tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    path.write_text("old\n")
    slow = textfile.acquire(str(path), 0)
    (tmp_path / LOCK).chmod(0)
    assert write_without_privilege(path) == ""
    with pytest.raises(ProblemError, match="another process is writing"):
        textfile.write(str(path), b"older\n", slow)
    os.close(slow)
    assert path.read_text() == "new\n"
    assert sorted(os.listdir(tmp_path)) == [LOCK, "sriov.prom"]


@pytest.mark.parametrize("name", ["x" * 250 + ".prom", "\U0001f600" * 60 + ".prom"])
def test_the_name_of_the_lock_file_is_not_too_long(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    lock = textfile.acquire(path, 0)
    textfile.write(path, b"metric 1\n", lock)
    with pytest.raises(ProblemError):
        textfile.acquire(path, 0)
    os.close(lock)


def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*unused: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    path = str(tmp_path / "sriov.prom")
    textfile.write(path, b"metric 1\n", textfile.acquire(path, 0))


def test_a_run_gives_up_with_exit_1_while_another_process_writes(
    make_host: MakeHost, old_file: Path
) -> None:
    host = make_host(SimulatedPf())
    lock = textfile.acquire(str(old_file), 1)
    run = host.collect(f"--textfile.path={old_file}", "--timeout=300ms")
    os.close(lock)
    assert run.code == 1
    assert (
        f"another process is writing {old_file}; {old_file} is unchanged; run only one" in run.log
    )
    assert "code=locked" in run.log
    assert old_file.read_text() == "# the old file\n"
    assert host.collect(f"--textfile.path={old_file}").code == 0


def test_a_lock_that_is_acquired_too_late_is_released(
    make_host: MakeHost, old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, answers = textfile.acquire, threading.Event()

    def acquire_late(path: str, seconds: float) -> int:
        answers.wait(60)
        return acquire(path, seconds)

    monkeypatch.setattr(textfile, "acquire", acquire_late)
    run = make_host(SimulatedPf()).collect(f"--textfile.path={old_file}", "--timeout=200ms")
    assert run.code == 1
    assert f"locking {old_file} did not finish within 0.2 s (--timeout); {old_file} is" in run.log
    answers.set()
    while not (old_file.parent / LOCK).exists():
        time.sleep(0.01)
    os.close(acquire(str(old_file), 5))


def test_older_values_never_replace_newer_ones(make_host: MakeHost, tmp_path: Path) -> None:
    """A run that is slow to read must not overwrite what a faster run has read later."""
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    path = tmp_path / "sriov.prom"
    values: list[int] = []
    command = [sys.executable, "-c", PROGRAM, host.rtnetlink, *host.flags, "--interval=1ms"]
    writers = [
        subprocess.Popen([*command, f"--textfile.path={path}"], stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    describe = host.server.describe
    slow = random.Random(1)

    def slowly(netdev: str, sequence: int) -> bytes | None:
        host.now += 1
        reply = describe(netdev, sequence)
        time.sleep(slow.random() / 50)
        return reply

    host.server.describe = slowly
    start = time.monotonic()
    while len(set(values)) <= 20 or time.monotonic() < start + 3:
        assert time.monotonic() < start + 60
        if path.exists():
            (line,) = [text for text in path.read_text().splitlines() if "rx_bytes{" in text]
            values.append(int(line.split()[-1]))
    for writer in writers:
        writer.terminate()
        writer.wait()
    assert values == sorted(values)


# --- failures ---------------------------------------------------------------------------


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "textfile/sriov.prom"
    path.parent.mkdir()
    path.write_text("# the old file\n")
    return path


def assert_write_failed(run: Run, path: Path, message: str) -> None:
    """Check that the old file is unchanged, no temporary file is left, and one line is logged."""
    assert run.code == 1
    assert len(run.log.splitlines()) == 1, run.log
    assert f"cannot write {path}: {message}; {path} is unchanged" in run.log
    assert path.read_text() == "# the old file\n"
    assert sorted(os.listdir(path.parent)) == [LOCK, "sriov.prom"]


def test_a_file_size_limit_keeps_the_old_file(make_host: MakeHost, old_file: Path) -> None:
    host = make_host(SimulatedPf(vfs=64))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        run = host.collect(f"--textfile.path={old_file}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_write_failed(run, old_file, os.strerror(errno.EFBIG))


@pytest.mark.parametrize("call", ["fsync", "rename", "fchmod"])
def test_a_failed_system_call_keeps_the_old_file(
    make_host: MakeHost, old_file: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    host = make_host(SimulatedPf())

    def fail(*unused: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    run = host.collect(f"--textfile.path={old_file}")
    assert_write_failed(run, old_file, os.strerror(errno.EIO))


def can_mount() -> bool:
    """Return whether this user can mount in a new namespace; most containers forbid it."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        bool(shutil.which("unshare")) and not subprocess.run(probe, capture_output=True).returncode
    )


@pytest.mark.skipif(not can_mount(), reason="this user or container cannot mount a full disk")
def test_a_full_disk_keeps_the_old_file(old_file: Path) -> None:
    script = f"""
        mount -t tmpfs -o size=16k tmpfs {old_file.parent}
        echo '# the old file' >{old_file}
        {sys.executable} -m sriov_textfile demo --vfs=64 --textfile.path={old_file}
        echo "exit $?"; cat {old_file}; ls -A {old_file.parent}
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"exit 1\n# the old file\n{LOCK}\nsriov.prom\n"
    assert f"cannot write {old_file}: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_folder_keeps_the_old_file(old_file: Path) -> None:
    old_file.parent.chmod(0o555)
    command = [sys.executable, "-m", "sriov_textfile", "demo", f"--textfile.path={old_file}"]
    done = subprocess.run(
        [*WITHOUT_PRIVILEGE, *command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"cannot write {old_file}: Permission denied" in done.stderr
    assert f"{old_file.parent}" in done.stderr.split("is unchanged; ")[1]
    assert old_file.read_text() == "# the old file\n"
    assert os.listdir(old_file.parent) == ["sriov.prom"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be root without a capability")
def test_root_without_capabilities_gets_fitting_advice(old_file: Path) -> None:
    os.chown(old_file.parent, 65534, 65534)
    old_file.parent.chmod(0o775)
    command = [sys.executable, "-m", "sriov_textfile", "demo", f"--textfile.path={old_file}"]
    before = [*WITHOUT_PRIVILEGE, *command]
    done = subprocess.run(before, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    folder = old_file.parent
    assert (
        f"Permission denied; {old_file} is unchanged; {folder} belongs to the user nobody, and root"
        f" without CAP_DAC_OVERRIDE cannot write there: setfacl -m u:root:rwx {folder}, or chown"
    ) in done.stderr
    os.chown(folder, 0, 65534)  # as the hint advises
    done = subprocess.run(before, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0


def test_an_inaccessible_folder_is_reported_with_a_hint(tmp_path: Path) -> None:
    folder = tmp_path / "private/textfile"
    folder.mkdir(parents=True)
    folder.parent.chmod(0)
    command = [sys.executable, "-m", "sriov_textfile", "demo", f"--textfile.path={folder}/x.prom"]
    done = subprocess.run(
        [*WITHOUT_PRIVILEGE, *command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"Permission denied; nothing was written; give this user access to {folder}" in (
        done.stderr
    )
    folder.parent.chmod(0o700)


def test_a_missing_folder_is_reported_with_a_hint(make_host: MakeHost) -> None:
    run = make_host().collect("--textfile.path=/nowhere/sriov.prom")
    assert run.code == 1
    assert "cannot write /nowhere/sriov.prom: No such file or directory" in run.log
    assert "create the directory /nowhere" in run.log


def test_a_file_system_without_new_files_is_reported_with_a_hint(make_host: MakeHost) -> None:
    run = make_host().collect("--textfile.path=/proc/sriov.prom")
    assert run.code == 1
    assert "/proc accepts no new files; choose another --textfile.path" in run.log


def test_a_folder_at_the_path_is_reported_and_kept(make_host: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "textfile/sriov.prom").mkdir(parents=True)
    run = make_host().collect(f"--textfile.path={tmp_path}/textfile/sriov.prom")
    assert run.code == 1
    assert "sriov.prom: Is a directory" in run.log
    assert sorted(os.listdir(tmp_path / "textfile")) == [LOCK, "sriov.prom"]


def test_a_signal_between_the_start_of_the_write_and_its_end_is_no_error(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write has the lock then, and closes it."""
    host = make_host(SimulatedPf())
    path = tmp_path / "textfile/sriov.prom"
    path.parent.mkdir()
    started: list[deadline.Task] = []

    def interrupted(call: Callable[[], object], late: object = None) -> deadline.Task:
        started.append(deadline.Task(call))
        if len(started) == 2:  # after that of the lock
            started[-1].wait(5)
            raise SystemExit(0)
        return started[-1]

    monkeypatch.setattr(once, "Task", interrupted)
    with pytest.raises(SystemExit):
        host.collect(f"--textfile.path={path}")
    assert sorted(os.listdir(path.parent)) == [".sriov.prom.lock", path.name]
