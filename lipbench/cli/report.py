"""The verb `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lipbench import api
from lipbench.cli import waiting
from lipbench.cli.options import RunArgument, path
from lipbench.cli.printing import check_output, name_problems


def report(
    run: RunArgument,
    output: Annotated[Path | None, path("--output", "FILE", "HTML file.  [default: in the run directory]", "-o")] = None,
    against: Annotated[
        Path | None, path("--against", "RUN", "Also show what changed since this run, as lipbench compare does.")
    ] = None,
) -> None:
    """Write a report as one self-contained HTML file, and print its path."""
    check_output(output)
    with waiting.of("counting on fake tensors and drawing figures"):
        found = api.load(run)
        written = found.report(output, against)
    print(written)
    name_problems(found.problems)
