"""Formats tables as text that fits a terminal."""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from lipbench.cli.streams import shown

UNBROKEN_WIDTH = 10_000
"""line length of a table in a pipe or a file"""
FOLDED = 24
"""column width above which cells may be folded; numbers are shorter"""
GAP = 3
"""characters between columns"""


def cells(table: pd.DataFrame) -> list[list[str]]:
    """The column names, then the rows, as text without line breaks; missing values are ""."""
    return [list(map(str, table.columns)), *([_cell(value) for value in row] for row in table.itertuples(index=False))]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if pd.api.types.is_scalar(value) and pd.isna(value) else shown(str(value).replace("\n", "; "))


def lines(table: pd.DataFrame, width: int | None = None) -> list[str]:
    """A frame as aligned columns or, if these do not fit, as one paragraph per row; no cell is truncated.

    `width` is that of the terminal; None breaks no lines.
    """
    room = width or UNBROKEN_WIDTH
    head, *rows = cells(table)
    columns = [[name, *(row[index] for row in rows)] for index, name in enumerate(head)]
    widest = [max(map(len, column)) for column in columns]
    if sum(min(one, FOLDED) for one in widest) + GAP * (len(columns) - 1) <= room:
        return _grid(columns, widest, room)
    return [line for row in rows for line in _paragraph(head, row, room)]


def _grid(columns: Sequence[Sequence[str]], widest: Sequence[int], room: int) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    heads = [Column(name, no_wrap=one <= FOLDED, overflow="fold", min_width=min(one, FOLDED))
             for (name, *_), one in zip(columns, widest)]  # fmt: skip
    grid = Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in list(zip(*columns))[1:]:
        grid.add_row(*row)
    # Not stdout itself, on which rich would write at once, and end the process if it is a broken pipe.
    with io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding, errors="backslashreplace") as file:
        Console(file=file, width=room, highlight=False, markup=False).print(grid)
        file.seek(0)
        return [line.rstrip() for line in file.read().splitlines()]


def _paragraph(names: Sequence[str], row: Sequence[str], room: int) -> Iterator[str]:
    """The first cell as a heading, then names and values of the other non-empty cells, as many per line as fit."""
    yield row[0]
    line = ""
    for part in (f"{name}: {value}" for name, value in zip(names[1:], row[1:]) if value):
        if line and len(f"  {line}   {part}") > room:
            yield from _indented(line, room)
            line = ""
        line = f"{line}   {part}" if line else part
    yield from _indented(line, room)


def _indented(line: str, room: int) -> list[str]:
    if len(line) + 2 <= room:
        return [f"  {line}".rstrip()]
    return textwrap.wrap(line, room, initial_indent="  ", subsequent_indent="    ")
