"""The progress of trainings, and the table after them."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lipbench import errors, external
from lipbench.answer import Answer
from lipbench.cases import network_of
from lipbench.cli import streams, waiting
from lipbench.train import records
from lipbench.train.task import RADII, TrainingCase, TrainingRecord, radius_key

REMARKS = (
    "CRA: share of the test images whose class no perturbation of this norm changes, by the certificate of the same weights.",
    "Time: of training alone, without set-up, evaluation and checkpoints; data share: choosing and augmenting.",
)


@contextlib.contextmanager
def shown(out: Path) -> Iterator[Callable[[TrainingCase, str], None]]:
    """Show a progress bar on stderr while the block runs, from the records on disk, or lines if stderr is not a terminal.

    Yields a function that is called with each training that begins, and with words that say which one it is.
    """
    if not sys.stderr.isatty():
        with waiting.in_lines() as say:
            yield lambda case, words: say(lambda: _described(out, case, words))
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}", markup=False),
        console=Console(stderr=True), refresh_per_second=waiting.REFRESHES_PER_SECOND, transient=True,
    )  # fmt: skip
    stop, current = threading.Event(), list[tuple[TrainingCase, str]]()
    with bar:
        task = bar.add_task("", total=1.0, left="")

        def watch() -> None:
            while not stop.wait(1.0):
                for case, words in current[-1:]:
                    record = _record(out, case)
                    share = _share(record)
                    text = f"{words}: {case.network.slug}{_last(record)}"
                    bar.update(task, description=streams.shown(text), completed=share, left=_left(record, share))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield lambda case, words: current.append((case, words))
        finally:
            stop.set()
            thread.join()


def _described(out: Path, case: TrainingCase, words: str) -> str:
    """A training and how far it is, in a line."""
    record = _record(out, case)
    share = _share(record)
    stage = f"{100 * share:.0f} % of its budget used" if share < 1 else "its budget is used; certificate and accuracy follow"
    return f"{words}: {case.network.slug}{_last(record)}; {record.steps} steps, {stage}"


def _record(out: Path, case: TrainingCase) -> TrainingRecord:
    """The record of a training so far."""
    try:
        return records.read(records.folder_of(out, case))
    except (errors.LipbenchError, OSError):
        return TrainingRecord(case, "running")


def _share(record: TrainingRecord) -> float:
    used = {"epochs": record.epochs, "seconds": record.seconds, "steps": record.steps}[record.case.budget.unit]
    return min(1.0, used / record.case.budget.amount)


def _left(record: TrainingRecord, share: float) -> str:
    return f"{record.seconds * (1 / share - 1):.0f} s left" if share else ""


def _last(record: TrainingRecord) -> str:
    """The last point of the curve in words."""
    if not record.curve:
        return ""
    point = record.curve[-1]
    accuracy, certified = point.validation_accuracy, point.validation_certified
    if accuracy is None or certified is None:
        return f", loss {point.loss:.3g}, accuracy {100 * point.accuracy:.1f} %"
    return f", loss {point.loss:.3g}, validation {100 * accuracy:.1f} %, CRA {100 * certified:.1f} %"


def answer(found: Sequence[TrainingRecord]) -> Answer:
    """One row per training. It fails if a training did not end 'ok'."""
    import pandas as pd

    problems = [f"{record.status}: {record.case.id}: {record.reason}" for record in found if record.status != "ok"]
    return Answer(
        pd.DataFrame([_row(record) for record in found]), pd.DataFrame([_readable(record) for record in found]), REMARKS,
        tuple(problems), failed=bool(problems),
    )  # fmt: skip


def _row(record: TrainingRecord) -> dict[str, object]:
    case, found = record.case, record.evaluation
    certified = found.certified if found else {}
    return {
        "method": case.network.method, "network": network_of(case.network), "dataset": case.dataset, "loss": case.loss,
        "budget": str(case.budget), "seed": case.seed, "status": record.status, "accuracy": found and found.accuracy,
        **{f"certified_{key}": certified.get(key) for key in map(radius_key, RADII)},
        "constant": found and found.constant, "verdict": found and found.verdict, "epochs": record.epochs,
        "steps": record.steps,
        "seconds": record.seconds, "loading_seconds": record.loading_seconds, "parameters": record.parameters,
        "peak_bytes": record.peak_bytes,
    }  # fmt: skip


def _readable(record: TrainingRecord) -> dict[str, str]:
    case, found = record.case, record.evaluation
    certified = found.certified if found else {}
    return {
        "network": f"{external.shown(case.network.method)} {network_of(case.network)}",
        "data": case.dataset, "loss": case.loss, "seed": str(case.seed),
        "accuracy": _percent(found.accuracy if found else None), "CRA 36/255": _percent(certified.get(radius_key(RADII[0]))),
        "certificate": found.verdict if found else "", "epochs": f"{record.epochs:.1f}", "time": f"{record.seconds:.1f} s",
        "data share": f"{100 * record.loading_seconds / record.seconds:.1f} %" if record.seconds else "",
        "status": record.status,
    }  # fmt: skip


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
