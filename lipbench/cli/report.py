"""The verb `report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lipbench import api
from lipbench.cli.options import RunArgument
from lipbench.cli.printing import name_problems


def report(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file.  [default: in the run directory]")] = None,
) -> None:
    """Write a report as one self-contained HTML file, and print its path."""
    found = api.load(run)
    if sys.stderr.isatty():
        print("lipbench: counting on fake tensors and drawing figures; this takes seconds to a minute", file=sys.stderr)
    print(found.report(output))
    name_problems(found.problems)
