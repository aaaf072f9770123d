"""The verb `predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lipbench.answer import Answer
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
    PresetName,
    whole,
)
from lipbench.cli.printing import Printer

if TYPE_CHECKING:
    from lipbench.run.plan import Request


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
    device: Annotated[
        PredictedDevice, typer.Option(help="Device to predict for; it need not exist here.")
    ] = PredictedDevice.cpu,
    memory: Annotated[int | None, whole("--memory", "BYTES", "Memory available; adds a column that says what fits.")] = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Predict the memory of training and inference from shapes alone, and whether it fits. Nothing is computed.

    csv, json and parquet are in bytes.
    """
    printer = Printer(format, output)
    from lipbench.run.plan import Request, conditions

    request = Request(
        preset=preset,
        methods=method,
        implementations=implementation,
        channels=channels,
        image_sizes=image_size,
        kernel_sizes=kernel_size,
        batch_sizes=batch_size,
        networks=network,
        conditions=conditions(dtype=dtype),
    )
    printer.print(answer(request, str(device), memory))


def answer(request: Request, device: str, limit_bytes: int | None = None) -> Answer:
    """One row per case, in bytes. Fails if a case cannot be predicted. Raises `LipbenchError` for impossible sizes."""
    from lipbench.predict import memory
    from lipbench.run.plan import plan

    frame, problems = memory.table(plan(request, device), limit_bytes)
    remarks = (memory.NOTES[device],)
    return Answer(frame, memory.readable(frame), remarks, problems=tuple(problems), failed=bool(problems))
