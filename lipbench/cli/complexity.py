"""The verb `complexity`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from lipbench.answer import Answer
from lipbench.cli.options import LAYERS_HELP, Format, ImageSizeList, KernelSizeList, Numbers, Output, numbers, split
from lipbench.cli.printing import Printer


def complexity(
    name: Annotated[str, typer.Argument(metavar="NAME", help=LAYERS_HELP)],
    channels: Annotated[Numbers | None, numbers("--channels", "Channels to count at, with commas.")] = None,
    image_size: ImageSizeList = None,
    kernel_size: KernelSizeList = None,
    batch_size: Annotated[Numbers | None, numbers("--batch-size", "Batch sizes, with commas, at least two.")] = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Count the costs of any layer at a few sizes, and print formulas in the form of Table 1. Nothing is timed.

    csv, json and parquet contain every term of a formula with its exponents.
    """
    printer = Printer(format, output)
    sizes = {"c": channels, "s": image_size, "k": kernel_size, "b": batch_size}
    printer.print(answer(list(split("NAME", name, str)), sizes))


def answer(methods: Sequence[str], sizes: Mapping[str, Sequence[int] | None]) -> Answer:
    """One row per method, half and quantity, counted at the given values of c, s, k and b.

    Raises `LipbenchError` for a layer that does not exist or cannot be counted, and for sizes that it does not accept.
    """
    import pandas as pd

    from lipbench.predict import complexity

    rows = [row for method in methods for row in complexity.fit_layer(method, complexity.given(sizes))]
    notes = complexity.remarks(rows)
    remarks = (*notes, *([""] if notes else []), *complexity.LEGEND)
    return Answer(pd.DataFrame(complexity.as_json(rows)), complexity.as_table(rows), remarks)
