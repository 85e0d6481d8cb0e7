"""Makes `python -m sriov_textfile` the same program as `sriov-textfile`."""

import sys

from sriov_textfile.cli import main

sys.exit(main())
