"""Options that the verbs `train` and `search` share, some of them with `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipbench.cases import LEAN, PAPER, PRECISIONS, TRITON, WIDTHS
from lipbench.cli.completion import methods, one_of, these
from lipbench.cli.options import DeviceName, Names, names, path, whole
from lipbench.train import plan
from lipbench.train.task import ATTACKED_IMAGES, DATASETS, LOSSES

BATCH_HELP = f"Images of a step.  [default: {plan.BATCH_SIZE} as published; 32 for digits]"

ConvNetMethods = Annotated[
    Names | None, names("--method", "Methods of which the paper's ConvNet is built, with commas.", methods)
]
ConvNetSizes = Annotated[Names | None, names("--size", "Sizes of the ConvNet, of XS,S,M,L.  [default: XS]", these(*WIDTHS))]
DatasetName = Annotated[
    str,
    typer.Option(help="digits, fashion-mnist, cifar10, cifar100 or tiny-imagenet.", autocompletion=one_of(these(*DATASETS))),
]
DataFolder = Annotated[Path | None, path("--data", "FOLDER", "Where the data set is.  [default: LIPBENCH_DATA]")]
AttackImages = Annotated[
    int | None, whole("--attack-images", "N", f"Attack so many images, the first.  [default: {ATTACKED_IMAGES}]", "batch_size")
]
LossList = Annotated[Names | None, names("--loss", "Of offset,annealed,cross-entropy.  [default: offset]", these(*LOSSES))]
BatchSize = Annotated[int | None, whole("--batch-size", "N", BATCH_HELP, "batch_size")]
ImplementationName = Annotated[str, typer.Option(help="Of the methods.", autocompletion=one_of(these(PAPER, LEAN, TRITON)))]
PrecisionName = Annotated[
    str, typer.Option(help="ieee, tf32, tf32x3, bf16 or fp16 (autocast).", autocompletion=one_of(these(*PRECISIONS)))
]
Compiled = Annotated[bool, typer.Option("--compile", help="Train with torch.compile.")]
Device = Annotated[DeviceName, typer.Option(help="Where to train; auto is a GPU if there is one.")]
Threads = Annotated[int | None, whole("--threads", "N", "CPU threads.  [default: all usable cores]", "threads")]
Out = Annotated[Path | None, path("--out", "DIR", "Where to store.  [default: a new directory in runs/]")]
