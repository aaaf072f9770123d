"""The verb `export`."""

from __future__ import annotations

import sys
from pathlib import Path

from lipbench import api
from lipbench.answer import Answer
from lipbench.cli.options import Format, Output, RunArgument
from lipbench.cli.printing import Printer


def export(run: RunArgument, format: Format = None, output: Output = None) -> None:
    """Write one tidy row per case and phase, theory beside measurement.

    Without a format and a file: a table on a terminal, csv into a pipe.
    """
    Printer(format, output, default="table" if output is None and sys.stdout.isatty() else "csv").print(answer(run))


def answer(run: Path) -> Answer:
    """All rows of a run that can be read, and its problems. Raises `LipbenchError` for what is no run."""
    found = api.load(run)
    return Answer(found.frame(), problems=found.problems)
