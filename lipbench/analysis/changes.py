"""The comparison of two runs as an answer: all rows for programs, and what changed for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from lipbench_reports.cells import BYTES, COUNTS, TIMES, carried, interval, with_unit
from lipbench_reports.intervals import Estimate

from lipbench import errors
from lipbench.analysis import comparison, counterparts
from lipbench.analysis.comparison import CONSTANT, FAILS, FASTER, LARGER, MACS, MEMORY, SAME, SLOWER, TIME, UNCLEAR, Comparison
from lipbench.answer import Answer
from lipbench.quantities import FREED_MEMORY, Machine
from lipbench.store.records import Run

UNITS = {TIME: TIMES, MEMORY: BYTES, MACS: COUNTS}


@dataclass(frozen=True)
class Compared:
    """Two runs that may be compared, and their comparison."""

    base: Run
    """with the names of layer files that the head has"""
    head: Run
    found: Comparison
    moved: Sequence[str]
    """which layer files are compared with files at other paths"""


def compared(
    base: Run, head: Run, slower: float, memory: float, any_machine: bool, least_pairs: int, alternating: bool = False
) -> Compared:
    """Compare two runs. Raises `LipbenchError` where `api.compare` does."""
    base, moved = counterparts.matched(base, head)
    if not {record.case for record in base.records} & {record.case for record in head.records}:
        raise errors.nothing_in_common(base.path, head.path)
    machines = _machines(base), _machines(head)
    if not any_machine and all(machines) and not machines[0] & machines[1]:
        raise errors.two_machines(*(", ".join(sorted(one)) for one in machines))
    return Compared(base, head, comparison.compare(base, head, slower, memory, least_pairs, alternating), moved)


def answer(
    base: Run,
    head: Run,
    slower: float,
    memory: float,
    fail_on: Sequence[str],
    any_machine: bool,
    least_pairs: int,
    alternating: bool,
) -> Answer:
    """As `api.compare`."""
    both = compared(base, head, slower, memory, any_machine, least_pairs, alternating)
    frame = both.found.frame
    bad = {FAILS} | ({SLOWER} if "slower" in fail_on else set()) | ({LARGER} if "memory" in fail_on else set())
    failed = bool(frame["verdict"].isin(bad).any())
    times = frame[frame["quantity"] == TIME]
    unclear = int((times["verdict"] == UNCLEAR).sum())
    is_open = "slower" in fail_on and unclear == len(times)
    said = f"{unclear} of {len(times)} times could not be decided; lipbench doctor says what disturbs this machine"
    said = said if len(times) else "both runs have no time in common"
    told = [f"--fail-on slower: {said}"] if "slower" in fail_on and (unclear or is_open) else []
    problems = (*base.problems, *head.problems, *told)
    return Answer(frame, readable(frame), remarks(both), problems, failed, undecided=is_open)


def _machines(run: Run) -> set[str]:
    """Host and processor of the rounds of a run."""
    return {f"{one.hostname} ({one.gpu or one.cpu})" for one in _described(run)}


def _described(run: Run) -> Iterator[Machine]:
    """The machines of the rounds of a run."""
    return (one.machine for record in run.records for one in record.rounds if one.machine)


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """What is not the SAME, for people; all times where nothing changed."""
    chosen = frame[frame["verdict"] != SAME]
    chosen = frame[frame["quantity"] == TIME] if chosen.empty else chosen
    return pd.DataFrame(
        [
            {
                "case": row["case"], "phase": row["phase"], "quantity": row["quantity"],
                "base": _value(row["base"], row["quantity"]), "head": _value(row["head"], row["quantity"]),
                "ratio": "" if pd.isna(row["ratio"]) else carried(_ratio(row)), "95 % interval": interval(_ratio(row)),
                "pairs": row["pairs"], "verdict": row["verdict"], "reason": row["reason"],
            }
            for _, row in chosen.iterrows()
        ],
        columns=["case", "phase", "quantity", "base", "head", "ratio", "95 % interval", "pairs", "verdict", "reason"],
    )  # fmt: skip


def _ratio(row: pd.Series) -> Estimate:
    return Estimate(float(row["ratio"]), float(row["low"]), float(row["high"]))


def _value(value: object, quantity: str) -> str:
    if quantity == CONSTANT:
        return f"{value:.6f}"
    return with_unit(float(value), UNITS[quantity]) if quantity in UNITS else str(value)  # type: ignore[arg-type]  # a cell of a frame


def remarks(both: Compared) -> tuple[str, ...]:
    """How many verdicts of each kind there are, the threshold, and the cases that only one run has."""
    found = both.found
    times = found.frame[found.frame["quantity"] == TIME]["verdict"].value_counts()
    counted = ", ".join(f"{times.get(name, 0)} {name}" for name in (SAME, FASTER, SLOWER, UNCLEAR))
    spread = f"the rounds of the base differ from themselves by {comparison.change(found.spread)}" if found.spread >= 0 else (
        "the base has fewer than the four rounds that show how far they differ from themselves")  # fmt: skip
    lines = (
        [f"times: {counted}; changes up to {comparison.change(found.threshold)} count as the same ({spread})"]
        if len(times)
        else []
    )
    others = found.frame[found.frame["quantity"] != TIME]
    for quantity, rows in others.groupby("quantity", sort=False):
        verdicts = rows["verdict"].value_counts(sort=False)
        lines.append(f"{quantity}: {', '.join(f'{count} {name}' for name, count in verdicts.items())}")
    before, after = {record.case.id for record in both.base.records}, {record.case.id for record in both.head.records}
    for name, only in (("base", before - after), ("head", after - before)):
        if only:
            lines.append(f"only in {name}: {', '.join(sorted(only))}")
    freed = {_freed(run) for run in (both.base, both.head)} - {""}
    if len(times) and len(freed) > 1:
        lines.append(
            "one run kept the memory that its processes freed, and the other returned it to the system, which takes much "
            "of the time of a phase on a CPU: a difference of these times may not be that of the layers"
        )
    return (*lines, *both.moved)


def _freed(run: Run) -> str:
    """What the processes of a run did with freed memory on a CPU; "" where it has no case on one."""
    return next((one.flags.get(FREED_MEMORY, "returned") for one in _described(run) if not one.gpu), "")
