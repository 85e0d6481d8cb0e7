"""__main__.py of the zipapp: makes its compiled files and its packages importable, and runs it.

Any Python 3 can read this file, to look for a newer one.
"""

import os
import sys

# A distribution whose own python3 is older, such as RHEL 9, has a newer one beside it.
if sys.version_info < (3, 10):  # noqa: UP036
    for minor in range(20, 9, -1):
        newer = f"/usr/bin/python3.{minor}"
        if os.access(newer, os.X_OK):
            os.execv(newer, [newer, "-I", *sys.argv])  # noqa: S606

archive = sys.path[0]
sys.path.insert(0, f"{archive}/{sys.implementation.cache_tag}")
sys.path.append(f"{archive}/fallback")

from sriov_textfile.__main__ import main  # noqa: E402

main()
