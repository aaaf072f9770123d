"""The verb `search`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

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
    whole,
)
from lipbench.cli.options import seconds as seconds_option
from lipbench.cli.printing import Printer
from lipbench.cli.training_options import (
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
from lipbench.train.task import Part, TrainingCase, TrainingRecord

FINAL = "Budget of a final training in {}.  [default: that of the draws]"


class Ends(tuple[float, ...]):
    """The two ends of a range."""


def ends(option: str, text: str) -> Any:
    """An option of type `Ends` that takes a range as in 1e-4,1e-1. It raises `LipbenchError` for anything else."""

    def parse(given: str) -> Ends:
        try:
            low, high = map(float, given.split(","))
        except ValueError:
            raise errors.bad_range(option, given) from None
        if not 0 < low <= high < math.inf:
            raise errors.bad_range(option, given)
        return Ends((low, high))

    return typer.Option(option, parser=parse, metavar="LOW,HIGH", help=text)


def search(
    method: ConvNetMethods = None,
    size: ConvNetSizes = None,
    network: NetworkList = None,
    with_: Settings = None,
    lipschitz: Claim = None,
    dataset: DatasetName = "digits",
    data: DataFolder = None,
    loss: LossList = None,
    trials: Annotated[int | None, whole("--trials", "N", "Draws for each network and loss.  [default: 16]", "rounds")] = None,
    seconds: Annotated[float | None, seconds_option("--seconds", "Budget of a draw: seconds of training.")] = None,
    epochs: Annotated[int | None, whole("--epochs", "N", "Budget of a draw: epochs.", "steps")] = None,
    steps: Annotated[int | None, whole("--steps", "N", "Budget of a draw: optimizer steps.", "steps")] = None,
    halving: Annotated[
        int | None,
        whole("--halving", "N", "Try all draws on a smaller budget; the best 1/N go on to one N times larger.", "rounds", 2),
    ] = None,
    learning_rate: Annotated[Ends | None, ends("--learning-rate", "Range to draw from.  [default: 1e-4,1e-1]")] = None,
    weight_decay: Annotated[Ends | None, ends("--weight-decay", "Range to draw from.  [default: 3.16e-6,3.16e-4]")] = None,
    draw_seed: Annotated[int | None, whole("--draw-seed", "N", "Seed of the draws.  [default: 0]", "rounds", 0)] = None,
    seeds: Annotated[int | None, whole("--seeds", "N", "Final trainings, seeds 0 to N−1.  [default: 3]", "rounds")] = None,
    final_seconds: Annotated[float | None, seconds_option("--final-seconds", FINAL.format("seconds"))] = None,
    final_epochs: Annotated[int | None, whole("--final-epochs", "N", FINAL.format("epochs"), "steps")] = None,
    final_steps: Annotated[int | None, whole("--final-steps", "N", FINAL.format("steps"), "steps")] = None,
    batch_size: BatchSize = None,
    implementation: ImplementationName = "paper",
    precision: PrecisionName = "ieee",
    compile: Compiled = False,
    device: Device = DeviceName.auto,
    threads: Threads = None,
    out: Out = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Search learning rate and weight decay by random draws, chosen by validation CRA at 36/255; then train the best draw on
    all training images, and print what it is worth on the test images.

    The same command with the same --out continues a search. Run several times at once, it shares the draws.
    """
    printer = Printer(format, output)
    from lipbench.analysis import draws
    from lipbench.cli.training import shown
    from lipbench.run.processes import Processes, usual_start
    from lipbench.run.profiling import new_directory
    from lipbench.train import search as searching
    from lipbench.train import series

    budget = plan.budget(epochs=epochs, seconds=seconds, steps=steps)
    asked = {"epochs": final_epochs, "seconds": final_seconds, "steps": final_steps}
    final = plan.budget(**asked) if any(asked.values()) else budget  # type: ignore[arg-type]  # only seconds are floats
    ranges = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    space = searching.Space(**{name: given for name, given in ranges.items() if given}, seed=draw_seed or 0)  # type: ignore[arg-type]
    options = searching.Options(space=space, trials=trials or 16, final=final, seeds=seeds or 3, halving=halving or 1)
    request = plan.Request(
        methods=method or (), sizes=size or ("XS",), networks=network or (), dataset=dataset, budget=budget,
        losses=loss or ("offset",), batch_size=batch_size, implementation=implementation,
        precision=precision, compile=compile, device=str(device), threads=threads, settings=given_settings(with_),
        claim=1.0 if lipschitz is None else lipschitz,
    )  # fmt: skip
    with Processes(usual_start()) as processes:
        templates = plan.cases(request, processes)
        directory = out or new_directory(Path("runs"))
        with shown(directory) as begin:

            def train(case: TrainingCase, folder: Path, part: Part) -> TrainingRecord:
                return series.train_apart(processes, case, folder, series.Options(directory, data, resume=True, part=part))

            def tell(job: searching.Job, done: int, total: int, failed: int) -> None:
                what = f"draw {job.number}" if job.study else f"final training, seed {job.number}"
                begin(job.case, f"{done + 1}/{total}, {failed} failed: {what}")

            found = searching.search(templates, options, directory, train, tell)
    printer.print(draws.answer(found, options))
