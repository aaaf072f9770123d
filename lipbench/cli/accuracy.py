"""The verb `accuracy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipbench import errors
from lipbench.answer import Answer
from lipbench.bounds import require_choice
from lipbench.cli import waiting
from lipbench.cli.options import Format, Output
from lipbench.cli.printing import Printer


def accuracy(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A directory that lipbench train wrote.")] = None,
    draws: Annotated[bool, typer.Option("--draws", help="Print the draws of searches, one row each.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Print the paper's results; DIR is left out.")] = False,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --published: cifar10, cifar100 or tiny-imagenet.")
    ] = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Print accuracy and certified robust accuracy of trained networks, with certificates, intervals over seeds and costs.

    The paper's results stand beside one's own where data set, method and size match.
    """
    printer = Printer(format, output)
    if published == (directory is not None):
        raise errors.one_table("both" if published else "neither")
    if published and draws:
        raise errors.one_table("--draws with --published")
    if dataset is not None and not published:
        raise errors.one_table("--dataset without --published")
    with waiting.of("reading the trainings"):
        found = answer_published(dataset) if directory is None else answer(directory, draws=draws)
    printer.print(found)


def answer(directory: Path, *, draws: bool = False) -> Answer:
    """The trainings in a directory, or the draws of its searches. Raises `LipbenchError` where there is no training."""
    from lipbench.analysis import worth
    from lipbench.train import records

    found, problems = records.read_all(directory)
    if not found and not problems:
        raise errors.no_trainings(directory)
    return (worth.draws if draws else worth.answer)(found, problems)


def answer_published(dataset: str | None) -> Answer:
    """The paper's results. Raises `LipbenchError` for a data set that it has no results for."""
    from lipbench.analysis import accuracy, worth

    if dataset is not None:
        require_choice("dataset", dataset, tuple(accuracy.PUBLISHED_DATASETS))
    return worth.published(dataset)
