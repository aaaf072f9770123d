"""The printer: an answer in one of six formats, on stdout or as a file. Also the exit code 3."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lipbench import errors

if TYPE_CHECKING:
    from lipbench.answer import Answer

FAILED = 3
"""the exit code where some case failed, or something does not hold"""
ENDINGS = {".txt": "table", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown", ".tex": "latex"}


class Printer:
    """Prints an `Answer` in the format that was asked for, or that the ending of the file stands for, or else in `default`.

    Raises `LipbenchError`, before anything is computed, for an ending that stands for no format or for another one than was
    asked for, and for parquet on a terminal.
    """

    def __init__(self, format: str | None, output: Path | None, default: str = "table") -> None:
        self.format, self.output = _chosen(format, output, default), output
        if self.format == "parquet" and output is None and sys.stdout.isatty():
            raise errors.no_output_file(self.format)

    def print(self, answer: Answer) -> None:
        """Print or write the answer, then its problems on stderr. Exits with code 3 where it failed.

        Raises `LipbenchError` where the file cannot be written.
        """
        from lipbench.cli import formats

        to_terminal = self.output is None and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if to_terminal else None
        content = formats.encoded(answer, self.format, width)
        if self.output is not None:
            write(self.output, content)
        elif isinstance(content, str):
            print(content, end="")
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        name_problems(answer.problems)
        if answer.failed:
            raise typer.Exit(FAILED)


def _chosen(format: str | None, output: Path | None, default: str) -> str:
    ending = "" if output is None else output.suffix.lower()
    by_ending = ENDINGS.get(ending)
    if format is not None:
        if by_ending not in (None, format):
            raise errors.format_against_ending(format, output, by_ending)
        return str(format)
    if ending and by_ending is None:
        raise errors.unknown_ending(output, ENDINGS)
    return by_ending or default


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all. Raises `LipbenchError` where that cannot be done."""
    from lipbench.store.files import write_file

    try:
        write_file(path, content)
    except OSError as error:
        raise errors.not_writable(path, error.strerror or str(error)) from error


def name_problems(problems: Iterable[str]) -> None:
    """Print on stderr, one line each, what is missing from the output."""
    for problem in problems:
        print(f"lipbench: {problem}", file=sys.stderr)
