"""What leaves the program: tables on a terminal, exported files, the report."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from lipbench import __version__, compare, errors, table1
from lipbench.cases import Case
from lipbench.files import write_file
from lipbench.records import Run

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


# ----------------------------------------------------------------------------------------------------------------- export


def export(run: Run, kind: str, output: Path | None) -> None:
    """Write `compare.rows` as csv, parquet or json; without a file, to stdout. Raises `LipbenchError` where that cannot be."""
    content = _encoded(compare.rows(run), kind)
    if output is not None:
        _write(output, content)
    elif kind == "parquet" and sys.stdout.isatty():
        raise errors.no_output_file(kind)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _encoded(frame: pd.DataFrame, kind: str) -> bytes:
    if kind == "parquet":
        return bytes(frame.to_parquet(index=False))
    if kind == "json":
        plain = frame.astype(object).where(frame.notna(), None)
        return (json.dumps(plain.to_dict("records"), indent=1) + "\n").encode()
    one_line = frame.assign(warnings=frame["warnings"].str.replace("\n", "; "))
    return one_line.to_csv(index=False).encode()


def _write(path: Path, content: str | bytes) -> None:
    try:
        write_file(path, content)
    except OSError as error:
        raise errors.not_writable(path, error.strerror or str(error)) from error


# ----------------------------------------------------------------------------------------------------------------- report


def report(run: Run, output: Path) -> Path:
    """Write the report of a run. Raises `LipbenchError` for a run without records, and where the file cannot be written."""
    from lipbench_reports import html
    from lipbench_reports.tables import Tables

    from lipbench import estimates

    if not run.records:
        raise errors.unreadable_run(run.path, "no case has run yet")
    rows = compare.rows(run)
    estimated = estimates.estimate(list(dict.fromkeys(rows["method"])), _predictable(run))
    document = html.render(
        Tables(
            title=_title(run),
            rows=rows,
            methods=table1.methods_table(),
            complexity=table1.complexity_table(),
            exponents=compare.exponents(run, rows),
            published=pd.read_csv(str(files("lipbench.published") / "epoch_budget_2h.csv")),
            run=_provenance(run, estimated.problems),
            certificates=compare.certificates(run),
            fitted=estimated.fitted,
            predicted=estimated.predicted,
        )
    )
    _write(output, document)
    return output


def _predictable(run: Run) -> list[Case]:
    """What ran as it stands: a compiled graph frees and fuses what nobody counts on shapes."""
    return [record.case for record in run.records if record.status == "ok" and not record.case.compile]


def _title(run: Run) -> str:
    machine = _machine(run)
    where = machine.get("gpu") or machine.get("cpu") or "an unknown machine"
    return f"1-Lipschitz layers on {where}"


def _machine(run: Run) -> dict[str, Any]:
    """The machine of the first round that got as far as describing it."""
    described = (one.machine for record in run.records for one in record.sittings if one.machine)
    return next((asdict(machine) for machine in described), {})


def _provenance(run: Run, warnings: Sequence[str]) -> Mapping[str, object]:
    machines = {(one.machine.hostname, one.machine.gpu or one.machine.cpu)
                for record in run.records for one in record.rounds if one.machine}  # fmt: skip
    several = [f"records of {len(machines)} machines are mixed: {', '.join(sorted(host for host, _ in machines))}; "
               "compare only cases of the same one"] if len(machines) > 1 else []  # fmt: skip
    begun = [f"rounds are left to run of {', '.join(run.begun)}; go on with --resume"] if run.begun else []
    begun += (
        [f"MACs or certificate are left to find of {', '.join(run.unexamined)}; go on with --resume"] if run.unexamined else []
    )
    return {
        "command": run.meta.get("command", ""), "started": run.meta.get("started", ""), "machine": _machine(run),
        "limits": {**run.meta.get("limits", {}), "rounds": run.meta.get("rounds")},
        "version": run.meta.get("version", __version__), "problems": list(run.unreadable),
        "planned": len(run.planned), "unfinished": list(run.unfinished), "warnings": [*several, *begun, *warnings],
    }  # fmt: skip
