"""Lays out rows as aligned columns, for doctor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a line for each row; columns of numbers (and `-`) are right-aligned."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [
        all(cell.isdecimal() or cell == "-" for cell in column[1:])
        and any(map(str.isdecimal, column))
        for column in columns
    ]
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        ]
        yield "  ".join(cells).rstrip()
