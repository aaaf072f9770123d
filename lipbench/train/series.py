"""Trainings one after another, each in a fresh process with its own number of threads; nothing imports torch before that.

A process that is killed, crashes or runs out of memory ends its own training alone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipbench import errors
from lipbench.run import isolate
from lipbench.run.processes import LONGEST_WAIT_S, Ending, Processes
from lipbench.train import records
from lipbench.train.task import Part, TrainingCase, TrainingRecord


@dataclass(frozen=True)
class Options:
    """What all trainings of a series share."""

    out: Path
    data_folder: Path | None = None
    resume: bool = False
    attack_images: int = 0
    """how many images of the part are attacked, the first"""
    part: Part = "test"
    """of the data that is evaluated at the end"""


def run(
    processes: Processes, cases: Sequence[TrainingCase], options: Options, begin: Callable[[TrainingCase], object]
) -> list[TrainingRecord]:
    """Train all cases in order; `begin` is called before each. Finished trainings are read, if the series is resumed.

    Raises `LipbenchError` for wrong use, before anything is trained where it can be known.
    """
    folders = [records.folder_of(options.out, case) for case in cases]
    taken = next((folder for folder in folders if (folder / records.FILE).exists()), None)
    if taken is not None and not options.resume:
        raise errors.training_exists(taken)
    found = []
    for case, folder in zip(cases, folders):
        begin(case)
        found.append(train_apart(processes, case, folder, options))
    return found


def train_apart(processes: Processes, case: TrainingCase, folder: Path, options: Options) -> TrainingRecord:
    """Train one case in a fresh process, or continue it; returns its record.

    Where the process is killed from outside, the record stays 'running', so that the training can be resumed. Raises the
    `LipbenchError` that `trainer.train` raises there.
    """
    question = {
        "module": "lipbench.train.series", "case": records.case_to_dict(case), "folder": str(folder.absolute()),
        "data": options.data_folder and str(options.data_folder.absolute()),
        "resume": options.resume, "attack_images": options.attack_images, "part": options.part,
    }  # fmt: skip
    killed_before = isolate.killed_for_memory()
    ending = processes.ask(question, LONGEST_WAIT_S, case.threads)
    ending.raise_refusal()
    if "answer" in (ending.answer or {}):
        return records.read(folder)
    return _ended(case, folder, ending, isolate.killed_for_memory() > killed_before)


def _ended(case: TrainingCase, folder: Path, ending: Ending, for_memory: bool) -> TrainingRecord:
    """The record of a training whose process has ended without an answer, or outside the training."""
    try:
        record = records.read(folder)
    except errors.LipbenchError:
        record = TrainingRecord(case, "running")
    failed = (ending.answer or {}).get("failed")
    if isinstance(failed, str):
        record = replace(record, status="failed", reason=failed)
    else:
        part = isolate.death(ending, LONGEST_WAIT_S, for_memory)
        if part.status == "out_of_memory":
            record = replace(record, status="out of memory", reason=part.reason)
        elif ending.code == -signal.SIGKILL:
            record = replace(record, reason="its process was killed; continue with --resume")
        else:
            record = replace(record, status="failed", reason=part.reason)
    folder.mkdir(parents=True, exist_ok=True)
    records.write(record, folder)
    return record


def answer(question: dict[str, Any]) -> str:
    """Train in this process, which was made for it; returns the status."""
    from lipbench.train import trainer

    data = question["data"]
    record = trainer.train(
        records.case_from_dict(question["case"]), Path(question["folder"]), data and Path(data), resume=question["resume"],
        attack_images=question["attack_images"], evaluate_part=question["part"],
    )  # fmt: skip
    return record.status
