"""The verb `index`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lipbench import errors
from lipbench.cli import waiting
from lipbench.cli.options import Format, path
from lipbench.cli.printing import Printer, check_output

PAGE = "lipbench-index.html"
PAGES = (".html", ".htm")


def index(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to look for runs, also in its folders.  [default: runs]")
    ] = None,
    format: Format = None,
    output: Annotated[
        Path | None,
        path("--output", "FILE", f"File to write: .html for the page, or as for other tables.  [default: DIR/{PAGE}]", "-o"),
    ] = None,
) -> None:
    """Write one HTML page over all runs in a directory, with links to them and their reports, and print its path.

    With --format, or a file of another ending, the same rows are a table: when, version, machine, methods, how the cases ended,
    and the worst warnings.
    """
    from lipbench.analysis import runs

    where = directory or Path("runs")
    if format is not None or (output is not None and output.suffix.lower() not in PAGES):
        printer = Printer(format, output)
        with waiting.of("reading the runs"):
            found = runs.answer(where)
        printer.print(found)
        return
    place = output or where / PAGE
    check_output(output)
    if output is None and os.path.lexists(place) and (place.is_symlink() or not place.is_file()):
        raise errors.not_writable(place, "a file of this name that is no regular one")
    from lipbench.store.files import write_errors, write_file

    with waiting.of("reading the runs"):
        content = runs.document(where, place)
    with write_errors(place):
        write_file(place, content)
    print(errors.visible(str(place)))
