"""The verb `theory`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from lipbench.answer import Answer
from lipbench.cli import waiting
from lipbench.cli.completion import methods
from lipbench.cli.options import Format, Names, Output, RecomputeList, names
from lipbench.cli.printing import Printer


def theory(
    method: Annotated[Names | None, names("--method", "Methods, with commas; all if left out.", methods)] = None,
    recompute: RecomputeList = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Print Table 1 of the paper (arXiv 2311.16833) and the exact costs of this code.

    csv, json and parquet have the layout of the published table, one row per method.
    """
    printer = Printer(format, output)
    with waiting.of("reading the formulas"):
        found = answer(method, recompute or (False,))
    printer.print(found)


def answer(asked: Sequence[str] | None = None, recompute: Sequence[bool] = (False,)) -> Answer:
    """The formulas of the given methods, or of all. Raises `LipbenchError` for an unknown method."""
    from lipbench import registry
    from lipbench.prediction import table1

    chosen = [registry.find(name).name for name in asked or registry.methods()]
    table = table1.complexity_table()
    table = table[table["method"].isin(chosen)]
    legend = (*table1.LEGEND, *([table1.RECOMPUTED] if True in recompute else []))
    return Answer(table1.published_layout(table), table1.readable(table, recompute), legend)
