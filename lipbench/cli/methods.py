"""The verb `methods`."""

from __future__ import annotations

from lipbench import api
from lipbench.answer import Answer
from lipbench.cli.options import Format, Output
from lipbench.cli.printing import Printer


def methods(format: Format = None, output: Output = None) -> None:
    """List the methods, their sources and claims."""
    Printer(format, output).print(answer())


def answer() -> Answer:
    """One row per method of the registry."""
    frame = api.methods()
    return Answer(frame, readable=frame.rename(columns={"lipschitz": "claims 1-Lipschitz"}))
