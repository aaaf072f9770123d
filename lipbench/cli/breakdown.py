"""The verb `breakdown`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipbench import api
from lipbench.cli.options import (
    BatchSizeList,
    ChannelList,
    DeviceName,
    DtypeList,
    Format,
    ImageSizeList,
    ImplementationList,
    KernelSizeList,
    MethodList,
    NetworkList,
    Output,
    PredictedPrecision,
    RecomputeList,
    Settings,
    Timeout,
    Traceback,
    given_settings,
    path,
    seconds,
    whole,
)
from lipbench.cli.printing import Printer, check_output

if TYPE_CHECKING:
    from lipbench.answer import Answer

DRAWN = ".svg"
"""ending of a file in which memory over time is drawn; for others it is a table"""


def breakdown(
    method: MethodList = None,
    implementation: ImplementationList = None,
    channels: ChannelList = None,
    image_size: ImageSizeList = None,
    kernel_size: KernelSizeList = None,
    batch_size: BatchSizeList = None,
    network: NetworkList = None,
    dtype: DtypeList = None,
    with_: Settings = None,
    precision: PredictedPrecision = None,
    recompute: RecomputeList = None,
    threads: Annotated[int | None, whole("--threads", "N", "CPU threads.  [default: all cores]", "threads")] = None,
    device: Annotated[DeviceName, typer.Option(help="Device to measure on.")] = DeviceName.auto,
    time: Annotated[float, seconds("--seconds", "Seconds to measure training, and as many for inference.")] = 3.0,
    memory_over_time: Annotated[
        Path | None,
        path("--memory-over-time", "FILE", "Also write the memory after each operation: .svg draws, .csv or .json lists it."),
    ] = None,
    trace: Annotated[
        Path | None, path("--trace", "FILE", "Also write a trace of one step, for chrome://tracing or ui.perfetto.dev.")
    ] = None,
    timeout: Timeout = None,
    traceback: Traceback = False,
    format: Format = None,
    output: Output = None,
) -> None:
    """Print time, memory and MACs of each layer and block of one network, in a training step and in inference.

    Memory and MACs are counted from shapes, times are measured in one process. csv, json and parquet have a row per layer, in
    seconds and bytes.
    """
    printer = Printer(format, output, traceback=traceback)
    check_output(trace)
    over_time = _Memory(memory_over_time) if memory_over_time else None
    axes: dict[str, Any] = {
        "implementation": implementation, "channels": channels, "image_size": image_size, "kernel_size": kernel_size,
        "batch_size": batch_size, "network": network, "dtype": dtype, "settings": given_settings(with_),
        "precision": precision, "recompute": recompute, "threads": threads,
    }  # fmt: skip
    found = api.breakdown(*(method or ()), device=str(device), seconds=time, trace=trace, timeout_s=timeout, **axes)
    if over_time and not found.failed:
        over_time.write(api.memory_over_time(*(method or ()), device=str(device), timeout_s=timeout, **axes))
    printer.print(found)


class _Memory:
    """Writes memory over time to a file. Raises `LipbenchError` at once for a file that cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._printer = None if path.suffix.lower() == DRAWN else Printer(None, path)
        check_output(path)

    def write(self, found: Answer) -> None:
        """Draw or list it."""
        if self._printer:
            self._printer.print(found)
            return
        from lipbench_reports import memory_over_time

        from lipbench.store.files import write_errors, write_file

        drawn = memory_over_time.drawn(found.frame, found.remarks[0])
        with write_errors(self._path):
            write_file(self._path, drawn)
