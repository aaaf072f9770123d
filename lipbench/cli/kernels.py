"""The verb `kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from lipbench.answer import Answer
from lipbench.cli import waiting
from lipbench.cli.options import Format, Names, Output, names
from lipbench.cli.printing import Printer


def kernels(
    arch: Annotated[Names | None, names("--arch", "Architectures, with commas.  [default: sm_80,sm_90,sm_100]")] = None,
    every: Annotated[bool, typer.Option("--all", help="Print each program, not one line per kernel.")] = False,
    format: Format = None,
    output: Output = None,
) -> None:
    """Compile every Triton kernel without a GPU, and print the GPU resources that it needs; exit code 3 if one cannot ship.

    A kernel has a program for each configuration, precision and architecture. csv, json and parquet have a row for each.
    """
    printer = Printer(format, output)
    with waiting.of("compiling") as tell:
        found = answer(arch, tell, every=every)
    printer.print(found)


def answer(
    architectures: Sequence[str] | None = None,
    tell: waiting.Tell = lambda done, total, what: None,
    *,
    every: bool = False,
) -> Answer:
    """One row per program; for people one per kernel, unless they ask for `every` program. Fails if one cannot ship.

    Raises `LipbenchError` where kernels cannot be compiled.
    """
    from lipbench.prediction import kernels

    rows = kernels.rows(architectures, tell)
    readable = kernels.readable(rows) if every else kernels.summary(rows)
    return Answer(rows, readable, tuple(kernels.remarks(rows, every=every)), failed=not rows["ships"].all())
