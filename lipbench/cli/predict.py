"""The verb `predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from lipbench import api
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
    Settings,
    Timeout,
    Traceback,
    given_settings,
    size,
)
from lipbench.cli.printing import Printer


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
    device: Annotated[
        PredictedDevice, typer.Option(help="Device to predict for; it need not exist here.")
    ] = PredictedDevice.cpu,
    memory: Annotated[
        int | None, size("--memory", "Memory available, such as 24GB or 24GiB; adds a column that says what fits.")
    ] = None,
    timeout: Timeout = None,
    traceback: Traceback = False,
    format: Format = None,
    output: Output = None,
) -> None:
    """Predict the memory of training and inference from shapes alone, and whether it fits. Nothing is computed.

    csv, json and parquet are in bytes.
    """
    printer = Printer(format, output, traceback=traceback)
    axes = {
        "preset": preset, "implementation": implementation, "channels": channels, "image_size": image_size,
        "kernel_size": kernel_size, "batch_size": batch_size, "network": network, "dtype": dtype,
        "settings": given_settings(with_),
        "precision": precision,
    }  # fmt: skip
    with waiting.of("predicting") as tell:
        found = api.predict(*(method or ()), device=str(device), memory_bytes=memory, timeout_s=timeout, tell=tell, **axes)
    printer.print(found)
