"""Answers of the verbs `complexity`, `predict` and `fits` about one layer; a fresh process gives those about
external layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lipbench import cases, external, registry
from lipbench.answer import Answer
from lipbench.cases import Case
from lipbench.prediction import complexity, largest, memory, rates, time
from lipbench.prediction.complexity import Fitted
from lipbench.prediction.growth import Growth
from lipbench.prediction.rates import Rates

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


def of_cases(planned: list[Case], memory_bytes: int | None, known: Rates | None = None) -> Answer:
    """The predicted memory of cases, and with rates their times; those that cannot be predicted are problems."""
    frame, problems = memory.table(planned, memory_bytes)
    readable = memory.readable(frame)
    if known is not None:
        times, more = time.table([case for case in planned if case.id in set(frame["case"])], known)
        frame = frame.merge(times, how="left", on="case")
        frame["evidence"] = "predicted"
        readable, problems = pd.concat([readable, time.readable(frame)], axis=1), [*problems, *more]
        frame = frame[[*frame.columns.drop("case"), "case"]]
    return Answer(frame, readable, problems=tuple(problems), failed=bool(problems))


def of_largest(planned: list[Case], memory_bytes: int, known: list[Growth] | None = None) -> Answer:
    """The largest batches of cases that fit; those that cannot be predicted are problems. `known` is for `largest.table`."""
    frame, problems = largest.table(planned, memory_bytes, known)
    return Answer(frame, largest.readable(frame), problems=tuple(problems), failed=bool(problems))


def each(planned: Sequence[Case], question: Mapping[str, Any]) -> list[Answer]:
    """The Answer about each case to a question: predicted memory and times, or with `largest` the largest batch that fits."""
    if question.get("largest"):
        growths: list[Growth] = []
        return [of_largest([case], question["memory_bytes"], growths) for case in planned]
    known = rates.chosen(question.get("gpu"), question.get("rates"))
    return [of_cases([case], question["memory_bytes"], known) for case in planned]


def answer(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Answer in a fresh process about a layer, or about each of several cases; `Answer.plain`."""
    if "cases" in question:
        return [one.plain() for one in each([cases.from_dict(one) for one in question["cases"]], question)]
    given = tuple((str(symbol), tuple(sizes)) for symbol, sizes in question["given"])
    return [of_layer(question["layer"], given).plain()]
