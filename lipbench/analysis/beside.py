"""Estimates that a report compares with measurements: cost formulas and memory peaks, both from counts on fake tensors.

Registered methods are counted in this process; the formulas of this package's methods ship with it (`fits.json`). An external
layer or network is counted in a child with a time limit, since its code is not trusted; a failure of the child becomes a note.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd

from lipbench import cases, external, registry
from lipbench.cases import Case, ExternalNetworkSpec
from lipbench.prediction import complexity
from lipbench.prediction import memory as predict
from lipbench.prediction.complexity import Fitted
from lipbench.run import child, processes

PREDICTION_LIMIT_S = 60.0
"""seconds for the memory of all cases of registered methods, and of each external layer or network"""
EXTERNAL_LIMIT_S = 180.0
"""seconds for the formulas and the memory of one external layer together"""


@dataclass(frozen=True)
class Estimates:
    """Frames for the report, and problems."""

    fitted: pd.DataFrame
    """in the columns of `complexity.fitted_table`"""
    predicted: pd.DataFrame
    """in the columns of `predict.peaks`"""
    problems: tuple[str, ...]
    """what could not be predicted and why, one line each"""


def estimate(methods: Sequence[str], ran: Sequence[Case]) -> Estimates:
    """Formulas of the methods, and peaks of the cases that `ran`; external layers of which no case ran are not counted."""
    ours = [case for case in ran if not external.is_external(case.spec.method)]
    peaks, problems = predict.peaks(ours, PREDICTION_LIMIT_S)
    fitted, predicted = [], peaks.to_numpy().tolist()
    for method in methods:
        if not external.is_external(method):
            fitted += _registered(method)
            continue
        answer = _external(method, [case for case in ran if case.spec.method == method])
        fitted += answer["fitted"]
        predicted += answer["peaks"]
        problems += answer["problems"]
    return Estimates(
        pd.DataFrame(fitted, columns=complexity.COLUMNS).astype({"residual": float}),
        pd.DataFrame(predicted, columns=list(peaks.columns)),
        tuple(problems),
    )


def _registered(method: str) -> list[complexity.Row]:
    known = shipped().get(method)
    return complexity.table_rows(method) if known is None else complexity.fitted_rows(known)


# ---------------------------------------------------------------------------------------------------------- shipped formulas


@functools.cache
def shipped() -> Mapping[str, tuple[Fitted, ...]]:
    """The formulas of this package's methods, written by `python tests/fits.py`."""
    rows = json.loads((files("lipbench.prediction") / "fits.json").read_text())
    ours = itertools.groupby(rows, key=lambda row: str(row["method"]))
    return {method: tuple(map(complexity.read, own)) for method, own in ours if method in registry.METHODS}


# ------------------------------------------------------------------------------------------------- external layers, networks


def _external(layer: str, ran: Sequence[Case]) -> dict[str, Any]:
    """Rows of both tables, and problems, from a child; if it gives no answer, rows with the reason."""
    if not ran:
        return {
            "fitted": complexity.unknown_rows(layer, "not counted, because none of its cases ran"),
            "peaks": [],
            "problems": [],
        }
    layers = [] if any(isinstance(case.spec, ExternalNetworkSpec) for case in ran) else [layer]
    question = {"layers": layers, "cases": [cases.to_dict(case) for case in ran]}
    ending = processes.ask(__name__, question, EXTERNAL_LIMIT_S)
    if ending.answer is not None and set(ending.answer) == {"fitted", "peaks", "problems"}:
        return ending.answer
    reason = f"no result within {EXTERNAL_LIMIT_S:g} s" if ending.timed_out else ending.reason
    problem = f"{layer} could not be counted: its process {reason}"
    return {"fitted": _unknown(layers, problem), "peaks": [], "problems": [problem]}


def _unknown(layers: Sequence[str], why: str) -> list[complexity.Row]:
    return [row for layer in layers for row in complexity.unknown_rows(layer, why)]


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answer in the child. An unknown residual is None, since JSON has no NaN."""
    fitted = complexity.fitted_table(question["layers"])
    peaks, problems = predict.peaks([cases.from_dict(case) for case in question["cases"]], PREDICTION_LIMIT_S)
    rows = fitted.astype(object).where(fitted.notna(), None).to_numpy().tolist()
    return {"fitted": rows, "peaks": peaks.to_numpy().tolist(), "problems": problems}


if __name__ == "__main__":
    child.serve(_answer)
