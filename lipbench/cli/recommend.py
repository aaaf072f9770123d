"""The verb `recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipbench import api
from lipbench.cli.options import (
    Format,
    ImplementationList,
    Names,
    Output,
    PredictedDevice,
    names,
    path,
    seconds,
    size,
    whole,
)
from lipbench.cli.printing import Printer, check_output


def recommend(
    memory: Annotated[int | None, size("--memory", "Memory for a training step, such as 24GB or 24GiB.")] = None,
    batch_size: Annotated[
        int | None, whole("--batch-size", "N", "Images of a batch.  [default: that of RUN, or 256]", "batch_size")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set of the accuracies.  [default: that of RUN, or cifar10]")
    ] = None,
    min_inference_throughput: Annotated[
        int | None, whole("--min-inference-throughput", "N", "Images per second at inference, at least.", "steps")
    ] = None,
    max_epoch_time: Annotated[float | None, seconds("--max-epoch-time", "Seconds for an epoch of training, at most.")] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="GPU of the times.  [default: the machine of RUN, or A100]")
    ] = None,
    run: Annotated[
        Path | None, path("--run", "RUN", "A run directory: its trainings and its times of networks come first.")
    ] = None,
    hours: Annotated[int, typer.Option(metavar="H", help="Published training time: 2, 10 or 24 hours.")] = 24,
    method: Annotated[Names | None, names("--method", "Methods to choose from, with commas.  [default: all]")] = None,
    network: Annotated[Names | None, names("--network", "Sizes to choose from, of XS,S,M,L.  [default: all]")] = None,
    implementation: ImplementationList = None,
    precision: Annotated[str, typer.Option(help="ieee, tf32, bf16 or fp16, for predictions and for times of RUN.")] = "ieee",
    device: Annotated[PredictedDevice | None, typer.Option(help="Whose memory it is.  [default: that of RUN, or cuda]")] = None,
    figure: Annotated[Path | None, path("--figure", "FILE", "SVG file for accuracy against costs, with the fronts.")] = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Rank methods and network sizes by certified robust accuracy, among those that satisfy limits on memory and time.

    Accuracies are the paper's, or those of trainings in RUN. What is unknown never satisfies a limit. csv, json and
    parquet are in bytes and seconds.
    """
    printer = Printer(format, output)
    check_output(figure)
    printer.print(
        api.recommend(
            *(method or ()), memory_bytes=memory, batch_size=batch_size, dataset=dataset,
            min_images_per_s=min_inference_throughput, max_epoch_s=max_epoch_time, gpu=gpu, run=run, hours=hours,
            network=network, implementation=implementation, precision=precision,
            device=None if device is None else str(device), figure=figure,
        )
    )  # fmt: skip
