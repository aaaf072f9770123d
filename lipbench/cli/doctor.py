"""The verb `doctor`."""

from __future__ import annotations

from lipbench.cli.options import Format, Output
from lipbench.cli.printing import Printer


def doctor(format: Format = None, output: Output = None) -> None:
    """Look at this machine: what will spoil a measurement, and how to cure it. Exit code 3 if anything will."""
    printer = Printer(format, output)
    from lipbench import doctor as machine

    printer.print(machine.answer())
