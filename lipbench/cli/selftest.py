"""The verb `selftest`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from lipbench.cli import streams
from lipbench.cli.options import DeviceName, Format, Output, whole
from lipbench.cli.printing import Printer


def selftest(
    device: Annotated[DeviceName, typer.Option(help="Whose clock to test; auto is a GPU if there is one.")] = DeviceName.auto,
    threads: Annotated[int | None, whole("--threads", "N", "CPU threads.  [default: all usable cores]", "threads")] = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Hold clocks and counter against others, in two minutes at most: every check is ok, failed, or the machine is too noisy.

    Exit codes: 0 if all are ok, 3 if one failed, 4 if none failed and the machine is too noisy for some, which is not a pass.
    """
    printer = Printer(format, output)
    from lipbench.cores import usable_cores

    # Libraries read these once, when they are loaded.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads or usable_cores())
    from lipbench import selftest as checks

    if sys.stderr.isatty():  # no progress bar, whose thread would disturb the clocks
        streams.complain("lipbench: holding clocks against others; this takes under a minute")
    printer.print(checks.answer(checks.device_of(str(device))))
