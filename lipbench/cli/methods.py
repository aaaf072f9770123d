"""The verb `methods`."""

from __future__ import annotations

from lipbench.answer import Answer
from lipbench.cli.options import Format, Output
from lipbench.cli.printing import Printer


def methods(format: Format = None, output: Output = None) -> None:
    """List the methods, their sources and claims."""
    Printer(format, output).print(answer())


def answer() -> Answer:
    """One row per method of the registry."""
    from lipbench.predict import table1

    frame = table1.methods_table()
    return Answer(frame, readable=frame.rename(columns={"lipschitz": "claims 1-Lipschitz"}))
