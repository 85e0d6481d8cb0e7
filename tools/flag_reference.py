"""Writes the table of flags into the README, between two markers."""

from __future__ import annotations

from pathlib import Path

from sriov_textfile import flags

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- flags -->\n", "<!-- end of flags -->\n"


def main() -> None:
    """Replace the text between the markers."""
    before, _, rest = README.read_text().partition(START)
    _, _, after = rest.partition(END)
    README.write_text(before + START + flags.reference() + END + after)


if __name__ == "__main__":
    main()
