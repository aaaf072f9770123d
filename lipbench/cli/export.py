"""The verb `export`."""

from __future__ import annotations

import sys
from pathlib import Path

from lipbench import api
from lipbench.answer import Answer
from lipbench.cli import waiting
from lipbench.cli.options import Format, Output, RunArgument
from lipbench.cli.printing import Printer


def export(run: RunArgument, format: Format = None, output: Output = None) -> None:
    """Write one tidy row per case and phase, with measurements and theory.

    Without --format and --output, a terminal gets a table and a pipe gets csv.
    """
    printer = Printer(format, output, default="table" if output is None and sys.stdout.isatty() else "csv")
    with waiting.of("reading the run"):
        found = answer(run)
    printer.print(found)


def answer(run: Path) -> Answer:
    """All readable rows of a run, and its problems. Raises `LipbenchError` for a path that is not a run."""
    found = api.load(run)
    return Answer(found.frame(), problems=found.problems)
