"""The verb `runs`."""

from __future__ import annotations

from lipbench.answer import Answer
from lipbench.cli.options import Format, Output, RunArgument
from lipbench.cli.printing import Printer


def runs(run: RunArgument, format: Format = None, output: Output = None) -> None:
    """List the cases of a run with their status."""
    printer = Printer(format, output)
    import pandas as pd

    from lipbench.store import benchmark_json

    found = benchmark_json.load(run)
    cases = pd.DataFrame([{"case": record.case.id, "status": record.status} for record in found.records])
    printer.print(Answer(cases, problems=tuple(found.problems)))
