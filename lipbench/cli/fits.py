"""The verb `fits`."""

from __future__ import annotations

from typing import Annotated

import typer

from lipbench import api
from lipbench.cli import waiting
from lipbench.cli.options import (
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
    size,
)
from lipbench.cli.printing import Printer


def fits(
    memory: Annotated[int, size("--memory", "Memory available, such as 24GB or 24GiB.")],
    preset: PresetName = None,
    method: MethodList = None,
    implementation: ImplementationList = None,
    channels: ChannelList = None,
    image_size: ImageSizeList = None,
    kernel_size: KernelSizeList = None,
    network: NetworkList = None,
    dtype: DtypeList = None,
    with_: Settings = None,
    precision: PredictedPrecision = None,
    recompute: RecomputeList = None,
    device: Annotated[PredictedDevice, typer.Option(help="Whose memory it is; it need not exist here.")] = PredictedDevice.cuda,
    timeout: Timeout = None,
    traceback: Traceback = False,
    format: Format = None,
    output: Output = None,
) -> None:
    """Print the largest batch that fits into a memory, for training and for inference. Nothing is computed.

    Each batch fits, and one image more does not, up to 65,536. csv, json and parquet are in bytes.
    """
    printer = Printer(format, output, traceback=traceback)
    axes = {
        "preset": preset, "implementation": implementation, "channels": channels, "image_size": image_size,
        "kernel_size": kernel_size, "network": network, "dtype": dtype, "settings": given_settings(with_),
        "precision": precision, "recompute": recompute,
    }  # fmt: skip
    with waiting.of("searching") as tell:
        found = api.fits(*(method or ()), memory_bytes=memory, device=str(device), timeout_s=timeout, tell=tell, **axes)
    printer.print(found)
