"""The verb `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lipbench import api, errors
from lipbench.cli import waiting
from lipbench.cli.options import (
    BatchSizeList,
    ChannelList,
    DtypeList,
    Format,
    ImageSizeList,
    ImplementationList,
    KernelSizeList,
    MethodList,
    NetworkList,
    Output,
    PredictedDevice,
    PredictedPrecision,
    PresetName,
    RecomputeList,
    Settings,
    Timeout,
    Traceback,
    given_settings,
    path,
    size,
)
from lipbench.cli.printing import Printer

GPUS = "A100, H100, H200, B200, L4, L40S, RTX 4090"
"""as in `lipbench_kernels.roofline`, which the help has no time to import"""


def predict(
    preset: PresetName = None,
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
    device: Annotated[
        PredictedDevice, typer.Option(help="Device to predict for; it need not exist here.")
    ] = PredictedDevice.cpu,
    memory: Annotated[
        int | None, size("--memory", "Memory available, such as 24GB or 24GiB; adds a column that says what fits.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help=f"Predict the least times on a GPU: {GPUS}.")] = None,
    rates: Annotated[
        Path | None, path("--rates", "FILE", "Rates by lipbench calibrate -o.  [default: those in the cache, if any]")
    ] = None,
    run: Annotated[
        Path | None, path("--run", "RUN", "Hold predicted times against those of a run, in place of other cases.")
    ] = None,
    timeout: Timeout = None,
    traceback: Traceback = False,
    format: Format = None,
    output: Output = None,
) -> None:
    """Predict memory and time of training and inference from shapes alone, and whether it fits. Nothing is computed.

    csv, json and parquet are in bytes and seconds.
    """
    printer = Printer(format, output, traceback=traceback)
    axes: dict[str, Any] = {
        "preset": preset, "implementation": implementation, "channels": channels, "image_size": image_size,
        "kernel_size": kernel_size, "batch_size": batch_size, "network": network, "dtype": dtype,
        "settings": given_settings(with_),
        "precision": precision, "recompute": recompute,
    }  # fmt: skip
    if run is not None:
        if method or memory is not None or any(axes.values()):
            raise errors.run_has_its_cases(run)
        printer.print(api.load(run).predicted(gpu, rates))
        return
    with waiting.of("predicting") as tell:
        found = api.predict(
            *(method or ()), device=str(device), memory_bytes=memory, gpu=gpu, rates=rates, timeout_s=timeout, tell=tell, **axes
        )
    printer.print(found)
