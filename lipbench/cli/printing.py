"""The printer: writes an answer in one of six formats to stdout or a file, and exits with code 3 if it failed, 4 if it cannot
tell."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lipbench import errors
from lipbench.cli.streams import complain, shown

if TYPE_CHECKING:
    from lipbench.answer import Answer

FAILED = 3
"""the exit code if a case or a check failed"""
TOO_NOISY = 4
"""the exit code if nothing failed, and a check could not tell"""
ENDINGS = {".txt": "table", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown", ".tex": "latex"}


class Printer:
    """Prints an `Answer` in the requested format, else in that of the file's extension, else in `default`.

    Raises `LipbenchError`, before anything is computed, for an unknown extension, for one that contradicts the requested
    format, for a file that cannot be written, and for parquet on a terminal. With `traceback`, tracebacks are printed too.
    """

    def __init__(self, format: str | None, output: Path | None, default: str = "table", *, traceback: bool = False) -> None:
        self.format, self.output, self.traceback = _chosen(format, output, default), output, traceback
        check_output(output)
        if self.format == "parquet" and output is None and sys.stdout.isatty():
            raise errors.no_output_file(self.format)

    def print(self, answer: Answer) -> None:
        """Print or write the answer, then its problems on stderr. Exits with code 3 if the answer failed, 4 if undecided.

        Raises `LipbenchError` where the file cannot be written.
        """
        from lipbench.cli import formats
        from lipbench.store.files import write_errors, write_file

        to_terminal = self.output is None and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if to_terminal else None
        content = formats.encoded(answer, self.format, width)
        if isinstance(content, str) or (to_terminal and self.format != "parquet"):
            content = shown(content if isinstance(content, str) else content.decode())
        if self.output is not None:
            with write_errors(self.output):
                write_file(self.output, content)
        elif isinstance(content, str):
            print(content, end="")
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        name_problems(answer.problems)
        if self.traceback:
            print_tracebacks(answer.tracebacks)
        if answer.failed:
            raise typer.Exit(FAILED)
        if answer.undecided:
            raise typer.Exit(TOO_NOISY)


def check_output(path: Path | None) -> None:
    """Raises `LipbenchError` for a file that cannot be written, before anything is computed."""
    if path is None:
        return
    from lipbench.store.files import write_errors

    with write_errors(path):
        if path.is_dir():
            raise errors.not_writable(path, "it is a directory")
        if not path.parent.is_dir():
            raise errors.not_writable(path, f"there is no directory {path.parent}")
        path.exists()  # raises for a name that is too long
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise errors.not_writable(path, "permission denied")


def _chosen(format: str | None, output: Path | None, default: str) -> str:
    extension = "" if output is None else output.suffix.lower()
    by_extension = ENDINGS.get(extension)
    if format is not None:
        if by_extension not in (None, format):
            raise errors.format_against_ending(format, output, by_extension)
        return str(format)
    if extension and by_extension is None:
        raise errors.unknown_ending(output, ENDINGS)
    return by_extension or default


def name_problems(problems: Iterable[str]) -> None:
    """Print the problems, such as missing cases, on stderr, one line each."""
    for problem in problems:
        complain(f"lipbench: {errors.visible(problem)}")


def print_tracebacks(tracebacks: Iterable[str]) -> None:
    """Print tracebacks on stderr, each once."""
    for traceback in dict.fromkeys(tracebacks):
        complain(f"\n{traceback.rstrip()}")
