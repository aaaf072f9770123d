"""The verb `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipbench import api, errors
from lipbench.answer import Answer
from lipbench.cli import waiting
from lipbench.cli.options import FailOn, Format, Output, RunArgument
from lipbench.cli.printing import Printer

SLOWER, MEMORY = "slower", "memory"
DEFAULT, LEAST_PAIRS = 0.05, 5
"""as in `api.compare`"""


def compare(
    base: RunArgument,
    head: RunArgument,
    fail_on: FailOn = None,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Compare runs of different machines, whose times differ anyway.")
    ] = False,
    format: Format = None,
    output: Output = None,
) -> None:
    """Compare two runs of the same cases: per case and phase SAME, FASTER, SLOWER or UNCLEAR.

    Cases that fail in HEAD alone and what --fail-on names give exit code 3; where it names times and none could be decided, the
    code is 4. Runs that were measured one after the other differ by all that changed on the machine; `lipbench profile
    --against` measures two versions in alternating rounds.
    """
    printer = Printer(format, output)
    with waiting.of("comparing"):
        found = answer(base, head, fail_on or (), any_machine)
    printer.print(found)


def answer(
    base: Path,
    head: Path,
    fail_on: tuple[str, ...] = (),
    any_machine: bool = False,
    least_pairs: int = LEAST_PAIRS,
    alternating: bool = False,
) -> Answer:
    """The comparison of two stored runs. Raises `LipbenchError` for runs that cannot be compared."""
    limits = dict(map(limit, fail_on))
    return api.compare(
        base, head, slower=limits.get(SLOWER, DEFAULT), memory=limits.get(MEMORY, DEFAULT), fail_on=tuple(limits),
        any_machine=any_machine, least_pairs=least_pairs, alternating=alternating,
    )  # fmt: skip


def limit(text: str) -> tuple[str, float]:
    """The name and the relative limit of "slower:5%". Raises `LipbenchError` for anything else."""
    name, _, amount = text.partition(":")
    try:
        value = float(amount.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if name not in (SLOWER, MEMORY) or not amount.endswith("%") or not 0 < value < 100:
        raise errors.not_a_gate(text)
    return name, value
