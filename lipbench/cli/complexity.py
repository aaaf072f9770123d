"""The verb `complexity`."""

from __future__ import annotations

from typing import Annotated

import typer

from lipbench import api, errors
from lipbench.cli import waiting
from lipbench.cli.completion import in_list, layers
from lipbench.cli.options import (
    LAYERS_HELP,
    Format,
    ImageSizeList,
    KernelSizeList,
    MethodList,
    Numbers,
    Output,
    Settings,
    Timeout,
    Traceback,
    given_settings,
    numbers,
    split,
)
from lipbench.cli.printing import Printer


def complexity(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help=LAYERS_HELP, autocompletion=in_list(layers))] = None,
    method: MethodList = None,
    with_: Settings = None,
    channels: Annotated[Numbers | None, numbers("--channels", "Channels to count at, with commas.")] = None,
    image_size: ImageSizeList = None,
    kernel_size: KernelSizeList = None,
    batch_size: Annotated[Numbers | None, numbers("--batch-size", "Batch sizes, with commas, at least two.")] = None,
    timeout: Timeout = None,
    traceback: Traceback = False,
    format: Format = None,
    output: Output = None,
) -> None:
    """Count the costs of any layer at a few sizes, and print formulas in the form of Table 1. Nothing is timed.

    csv, json and parquet contain every term of a formula with its exponents.
    """
    printer = Printer(format, output, traceback=traceback)
    sizes = {"channels": channels, "image_size": image_size, "kernel_size": kernel_size, "batch_size": batch_size}
    given, settings = [*(split("NAME", name, str, layers) if name is not None else ()), *(method or ())], given_settings(with_)
    if not given:
        raise errors.no_layer()
    with waiting.of("counting") as tell:
        found = api.complexity(*given, settings=settings, timeout_s=timeout, tell=tell, **sizes)
    printer.print(found)
