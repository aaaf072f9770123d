"""The verb `theory`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from lipbench.answer import Answer
from lipbench.cli.options import Format, Names, Output, names
from lipbench.cli.printing import Printer

REMARKS = (
    "C = b s² c² k², M = b s² c, P = c² k²; batch b, channels c, image s × s, kernel k × k, iterations t.",
    "published: leading terms, a complex number is one; exact: real MACs and elements of this code, in training.",
)


def theory(
    method: Annotated[Names | None, names("--method", "Methods, with commas; all if left out.")] = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Print Table 1 of the paper (arXiv 2311.16833) and, beside it, the exact costs of this code.

    csv, json and parquet have the layout of the published table, one row per method.
    """
    Printer(format, output).print(answer(method))


def answer(methods: Sequence[str] | None = None) -> Answer:
    """The formulas of some methods, or of all. Raises `LipbenchError` for a method that does not exist."""
    from lipbench import registry
    from lipbench.predict import table1

    chosen = [registry.find(name).name for name in methods or registry.methods()]
    table = table1.complexity_table()
    table = table[table["method"].isin(chosen)]
    readable = table[["title", "half", "quantity", "operations", "published", "exact"]].copy()
    for kind in ("published", "exact"):
        readable[kind] = readable[kind].map(table1.in_print)
    return Answer(table1.published_layout(table), readable, REMARKS)
