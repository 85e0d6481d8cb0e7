"""Lays out rows as aligned columns, for doctor and top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> Iterator[str]:
    """Yield a line for each row, of which the first is the head.

    Columns of numbers (and `-`) are right-aligned, and those whose heads are in `right`.
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_right_aligned = [
        column[0] in right
        or (
            all(cell.isdecimal() or cell == "-" for cell in column[1:])
            and any(map(str.isdecimal, column))
        )
        for column in columns
    ]
    for row in rows:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, is_right_aligned, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` characters, without its middle if it is longer."""
    if len(text) <= width:
        return text
    end = (width - 1) // 3
    return text[: max(width - 1 - end, 0)] + "~" * (width > 0) + text[len(text) - end :] * (end > 0)
