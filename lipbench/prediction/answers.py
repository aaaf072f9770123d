"""Answers of the verbs `complexity`, `predict` and `fits` about one layer; a fresh process gives those about
external layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from lipbench import cases, external, registry
from lipbench.answer import Answer
from lipbench.cases import Case
from lipbench.prediction import complexity, largest, memory
from lipbench.prediction.complexity import Fitted

Given = tuple[tuple[str, tuple[int, ...]], ...]


def of_layer(method: str, given: Given, is_cached: bool = True) -> Answer:
    """The formulas of a layer, with their notes as remarks; `complexity.given` makes the sizes. Raises as `fit_layer` does."""
    rows: tuple[Fitted, ...] = (complexity.fit_layer if is_cached else complexity.fit_layer.__wrapped__)(method, given)
    problems = tuple(complexity.problems(rows))
    frame, remarks = pd.DataFrame(complexity.as_json(rows)), tuple(complexity.remarks(rows))
    return Answer(frame, complexity.as_table(rows), remarks, problems, failed=bool(problems))


def require_known(names: Iterable[str]) -> None:
    """Raises `LipbenchError` for a name of no method; external names are checked where they are loaded."""
    for name in names:
        if not external.is_external(name):
            registry.find(name)


def of_cases(planned: list[Case], memory_bytes: int | None) -> Answer:
    """The predicted memory of cases; those that cannot be predicted are problems."""
    frame, problems = memory.table(planned, memory_bytes)
    return Answer(frame, memory.readable(frame), problems=tuple(problems), failed=bool(problems))


def of_largest(planned: list[Case], memory_bytes: int) -> Answer:
    """The largest batches of cases that fit; those that cannot be predicted are problems."""
    frame, problems = largest.table(planned, memory_bytes)
    return Answer(frame, largest.readable(frame), problems=tuple(problems), failed=bool(problems))


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answer in a fresh process; `Answer.plain`."""
    if "case" in question:
        if question.get("largest"):
            return of_largest([cases.from_dict(question["case"])], question["memory_bytes"]).plain()
        return of_cases([cases.from_dict(question["case"])], question["memory_bytes"]).plain()
    given = tuple((str(symbol), tuple(sizes)) for symbol, sizes in question["given"])
    return of_layer(question["layer"], given).plain()
