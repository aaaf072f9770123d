"""The verb `show`."""

from __future__ import annotations

from lipbench import api
from lipbench.cli import waiting
from lipbench.cli.options import Format, Output, RunArgument
from lipbench.cli.printing import Printer


def show(run: RunArgument, format: Format = None, output: Output = None) -> None:
    """Print the answer of a run: what each method costs relative to the baseline, and the verdict in sentences.

    csv, json and parquet have one row per method and measure, with the ends of the 95 % interval.
    """
    printer = Printer(format, output)
    with waiting.of("reading the run"):
        found = api.load(run).summary()
    printer.print(found)
