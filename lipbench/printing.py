"""What leaves the program: tables on a terminal, exported files, the report."""

from __future__ import annotations

import json
import sys
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

PREDICTION_LIMIT_S = 60.0
"""seconds that a report may take to predict memory"""
PIPE_WIDTH = 10_000
"""columns of a table that no terminal breaks"""


def print_table(table: pd.DataFrame) -> None:
    """Print a frame as aligned columns; lines break only at the width of a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(*(str(name) for name in table.columns), box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in table.itertuples(index=False):
        grid.add_row(*({True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value) for value in row))
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(grid)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


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

    from lipbench import complexity, predict

    if not run.records:
        raise errors.unreadable_run(run.path, "no case has run yet")
    rows = compare.rows(run)
    predicted, unpredicted = predict.peaks(_predictable(run), PREDICTION_LIMIT_S)
    document = html.render(
        Tables(
            title=_title(run),
            rows=rows,
            methods=table1.methods_table(),
            complexity=table1.complexity_table(),
            exponents=compare.exponents(run, rows),
            published=pd.read_csv(str(files("lipbench.published") / "epoch_budget_2h.csv")),
            run=_provenance(run, unpredicted),
            certificates=compare.certificates(run),
            fitted=complexity.fitted_table(list(dict.fromkeys(rows["method"]))),
            predicted=predicted,
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
    described = (one.machine for record in run.records for one in record.rounds if one.machine)
    return next((asdict(machine) for machine in described), {})


def _provenance(run: Run, warnings: Sequence[str]) -> Mapping[str, object]:
    machines = {(one.machine.hostname, one.machine.gpu or one.machine.cpu)
                for record in run.records for one in record.rounds if one.machine}  # fmt: skip
    several = [f"records of {len(machines)} machines are mixed: {', '.join(sorted(host for host, _ in machines))}; "
               "compare only cases of the same one"] if len(machines) > 1 else []  # fmt: skip
    return {
        "command": run.meta.get("command", ""), "started": run.meta.get("started", ""), "machine": _machine(run),
        "limits": {**run.meta.get("limits", {}), "rounds": run.meta.get("rounds")},
        "version": run.meta.get("version", __version__), "problems": list(run.problems), "warnings": [*several, *warnings],
    }  # fmt: skip
