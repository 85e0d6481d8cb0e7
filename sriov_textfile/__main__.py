"""Makes `python -m sriov_textfile` the same program as `sriov-textfile`."""

import os
import sys

# Any Python 3 can read this file.
_TOO_OLD = (
    "sriov-textfile: {} is Python {}.{}; run this with Python 3.10 or newer, such as python3.12"
    " (on RHEL 9: dnf install python3.12)"
)


def main() -> None:
    """Run the program and end the process with its exit code; 130 if the user interrupts it.

    The process ends at once: Python's own exit would wait for threads, and a thread may hang in
    a system call for good. Nothing is lost, because the program writes with os.write.
    """
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(_TOO_OLD.format(sys.executable, *sys.version_info))
    code: object = 130
    try:
        # Imported here, so that an interrupt during the import shows no traceback either.
        from sriov_textfile import cli

        code = cli.main()
    except KeyboardInterrupt:
        pass
    except SystemExit as error:
        code = 0 if error.code is None else error.code
    except MemoryError:
        _report("out of memory; allow more (MemoryMax=, ulimit -v)")
        code = 1
    except Exception as error:
        _report(f"unexpected error: {type(error).__name__}: {error}; please report this")
        code = 1
    os._exit(code if isinstance(code, int) else 1)


def _report(message: str) -> None:
    try:
        from sriov_textfile.log import write_line

        write_line(f"sriov-textfile: {message}")
    except (ImportError, MemoryError):
        # There is no memory to load a module either.
        if sys.stderr is not None:
            os.write(2, b"sriov-textfile: out of memory\n")


if __name__ == "__main__":
    main()
