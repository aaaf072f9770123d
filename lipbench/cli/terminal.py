"""Tables on a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

import pandas as pd

PIPE_WIDTH = 10_000
"""columns of a table that no terminal breaks"""
FOLDED = 24
"""characters of a column from which it may be folded, which numbers never are"""
GAP = 3
"""characters between columns"""


def print_table(table: pd.DataFrame, width: int | None = None) -> None:
    """Print a frame as aligned columns or, where they do not fit, as one paragraph a row; no cell is ever cut.

    `width` is by default that of the terminal; what is no terminal has room for everything.
    """
    cells = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    room = width or (shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH)
    columns = [[str(name), *(row[index] for row in cells)] for index, name in enumerate(table.columns)]
    widest = [max(map(len, column)) for column in columns]
    if sum(min(one, FOLDED) for one in widest) + GAP * (len(columns) - 1) <= room:
        _print_grid(columns, widest, room)
    else:
        _print_paragraphs(list(map(str, table.columns)), cells, room)


def _cell(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _print_grid(columns: Sequence[Sequence[str]], widest: Sequence[int], room: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    heads = [Column(name, no_wrap=one <= FOLDED, overflow="fold", min_width=min(one, FOLDED))
             for (name, *_), one in zip(columns, widest)]  # fmt: skip
    grid = Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in list(zip(*columns))[1:]:
        grid.add_row(*row)
    console = Console(width=room, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(grid)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _print_paragraphs(names: Sequence[str], cells: Sequence[Sequence[str]], room: int) -> None:
    """The first cell as a heading, then name and value of every other one that is not empty, as many a line as fit."""
    for row in cells:
        print(row[0])
        line = ""
        for part in (f"{name}: {value}" for name, value in zip(names[1:], row[1:]) if value):
            if line and len(f"  {line}   {part}") > room:
                _print_line(line, room)
                line = ""
            line = f"{line}   {part}" if line else part
        _print_line(line, room)


def _print_line(line: str, room: int) -> None:
    if len(line) + 2 <= room:
        print(f"  {line}".rstrip())
    else:
        print(textwrap.fill(line, room, initial_indent="  ", subsequent_indent="    "))
