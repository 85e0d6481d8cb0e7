"""The entry point of `sriov-textfile` and of `python -m sriov_textfile`."""

import sys


def main() -> int:
    """Run the program and return its exit code; 130 if the user interrupts it."""
    try:
        # Imported here, so that an interrupt during the import shows no traceback either.
        from sriov_textfile import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
