"""The verb `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipbench import errors
from lipbench.cli.options import (
    Claim,
    DeviceName,
    Format,
    NetworkList,
    Output,
    Settings,
    given_settings,
    real,
    whole,
)
from lipbench.cli.options import seconds as seconds_option
from lipbench.cli.printing import Printer
from lipbench.cli.training_options import (
    AttackImages,
    BatchSize,
    Compiled,
    ConvNetMethods,
    ConvNetSizes,
    DataFolder,
    DatasetName,
    Device,
    ImplementationName,
    LossList,
    Out,
    PrecisionName,
    Threads,
)
from lipbench.train import plan
from lipbench.train.task import ATTACKED_IMAGES


def train(
    method: ConvNetMethods = None,
    size: ConvNetSizes = None,
    network: NetworkList = None,
    with_: Settings = None,
    lipschitz: Claim = None,
    dataset: DatasetName = "digits",
    data: DataFolder = None,
    seconds: Annotated[float | None, seconds_option("--seconds", "Budget: seconds of training.")] = None,
    epochs: Annotated[int | None, whole("--epochs", "N", "Budget: epochs.", "steps")] = None,
    steps: Annotated[int | None, whole("--steps", "N", "Budget: optimizer steps.", "steps")] = None,
    seeds: Annotated[
        int | None, whole("--seeds", "N", "Trainings of each network, with the seeds 0 to N−1.  [default: 1]", "rounds")
    ] = None,
    loss: LossList = None,
    learning_rate: Annotated[float, real("--learning-rate", "RATE", "Peak of the one-cycle schedule.")] = plan.LEARNING_RATE,
    weight_decay: Annotated[float, real("--weight-decay", "W", "Of SGD.")] = plan.WEIGHT_DECAY,
    batch_size: BatchSize = None,
    implementation: ImplementationName = "paper",
    precision: PrecisionName = "ieee",
    compile: Compiled = False,
    device: Device = DeviceName.auto,
    threads: Threads = None,
    attack: Annotated[bool, typer.Option("--attack", help="Also attack the trained networks.")] = False,
    attack_images: AttackImages = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue in --out; finished trainings are not repeated.")] = False,
    format: Format = None,
    output: Output = None,
) -> None:
    """Train networks for equal budgets, and print what they are worth: accuracy and certified robust accuracy."""
    printer = Printer(format, output)
    if resume and out is None:
        raise errors.resume_without_run()
    from lipbench.cli.training import answer, shown
    from lipbench.run.processes import Processes, usual_start
    from lipbench.run.profiling import new_directory
    from lipbench.train import series

    request = plan.Request(
        methods=method or (), sizes=size or ("XS",), networks=network or (), dataset=dataset,
        budget=plan.budget(epochs=epochs, seconds=seconds, steps=steps), losses=loss or ("offset",), seeds=range(seeds or 1),
        learning_rate=learning_rate, weight_decay=weight_decay, batch_size=batch_size,
        implementation=implementation, precision=precision, compile=compile, device=str(device), threads=threads,
        settings=given_settings(with_), claim=1.0 if lipschitz is None else lipschitz,
    )  # fmt: skip
    with Processes(usual_start()) as processes:
        cases = plan.cases(request, processes)
        attacked = attack_images or (ATTACKED_IMAGES if attack else 0)
        options = series.Options(out or new_directory(Path("runs")), data, resume, attacked)
        with shown(options.out) as begin:
            found = series.run(
                processes, cases, options, lambda case: begin(case, f"training {cases.index(case) + 1}/{len(cases)}")
            )
    printer.print(answer(found))
