"""The verb `kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from lipbench.answer import Answer
from lipbench.cli.options import Format, Names, Output, names
from lipbench.cli.printing import Printer


def kernels(
    arch: Annotated[Names | None, names("--arch", "Architectures, with commas.  [default: sm_80,sm_90,sm_100]")] = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Compile every Triton kernel without a GPU, and print the GPU resources that it needs; exit code 3 if one cannot ship."""
    Printer(format, output).print(answer(arch))


def answer(architectures: Sequence[str] | None = None) -> Answer:
    """One row per program of each kernel. Fails if one cannot ship. Raises `LipbenchError` where kernels cannot be compiled."""
    from lipbench.prediction import kernels

    rows = kernels.rows(architectures)
    return Answer(rows, kernels.readable(rows), tuple(kernels.remarks(rows)), failed=not rows["ships"].all())
