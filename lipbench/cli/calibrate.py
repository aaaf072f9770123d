"""The verb `calibrate`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from lipbench.cli.options import Format, path, whole
from lipbench.cli.printing import Printer, check_output
from lipbench.cli.waiting import REFRESHES_PER_SECOND, in_lines


def calibrate(
    threads: Annotated[int | None, whole("--threads", "N", "CPU threads.  [default: all usable cores]", "threads")] = None,
    output: Annotated[
        Path | None, path("--output", "FILE", "File for the rates.  [default: one in the user's cache]", "-o")
    ] = None,
    format: Format = None,
) -> None:
    """Measure the rates of this machine, from which lipbench predict estimates times. Close other programs first.

    Every rate is measured twice. Exit code 4 means that some differ: the machine is too noisy. The rates are stored
    nevertheless.
    """
    printer = Printer(format, None)
    check_output(output)
    from lipbench.cores import usable_cores

    # Libraries read these once, when they are loaded.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads or usable_cores())
    from lipbench.calibration import answer
    from lipbench.prediction import rates

    with _bar() as tell:
        found, told = answer.calibrate(tell)
    place = rates.write(found, output)
    printer.print(replace(told, remarks=(*told.remarks, f"stored in {place}")))


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], object]]:
    """Show a progress bar on stderr while the block runs, or lines if stderr is not a terminal."""
    if not sys.stderr.isatty():
        with in_lines() as say:
            yield lambda done, total: say(f"measuring rates, {done}/{total} done")
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), refresh_per_second=REFRESHES_PER_SECOND, transient=True) as bar:
        task = bar.add_task("measuring")
        yield lambda done, total: bar.update(task, completed=done, total=total)
