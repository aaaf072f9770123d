"""Estimates that a report compares with measurements: cost formulas and memory peaks, both from counts on fake tensors.

Registered methods are counted in this process; the formulas of this package's methods ship with it (`fits.json`). Nothing of an
external layer or network is imported or counted here, since a run may come from anywhere: its estimates are in its records.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from lipbench import external, registry
from lipbench.cases import Case, ExternalNetworkSpec
from lipbench.prediction import complexity, stored
from lipbench.prediction import memory as predict
from lipbench.prediction.complexity import Fitted
from lipbench.store.rounds import Record

PREDICTION_LIMIT_S = 10.0
"""seconds for the memory of all cases of registered methods in a report"""
MOST_PRODUCTS = 2**56
"""multiply-accumulates of a convolution of the same sizes, up to which memory is predicted"""
NOT_STORED = "measured by an older version, or without its memory and MACs; add them with lipbench profile --resume"
NONE_RAN = "none of its cases ran"


@dataclass(frozen=True)
class Estimates:
    """Frames for the report, and problems."""

    fitted: pd.DataFrame
    """in the columns of `complexity.fitted_table`"""
    predicted: pd.DataFrame
    """in the columns of `predict.peaks`"""
    problems: tuple[str, ...]
    """what could not be predicted and why, one line each"""


def estimate(methods: Sequence[str], records: Sequence[Record], shown: Sequence[str] | None = None) -> Estimates:
    """Formulas of the methods, and peaks of the cases that ran uncompiled: of all, or of the ids in `shown`, in that order.

    Counts from shapes do not include what a compiled graph frees and fuses.
    """
    ran = [record for record in records if record.status == "ok" and not record.case.compile]
    if shown is not None:
        known = {record.case.id: record for record in ran}
        ran = [known[case] for case in shown if case in known]
    ours = [record.case for record in ran if not external.is_external(record.case.spec.method)]
    peaks, problems = predict.peaks([case for case in ours if not _is_vast(case)], PREDICTION_LIMIT_S)
    problems += [
        f"memory of {case.id} was not predicted: its sizes are too large to be counted" for case in ours if _is_vast(case)
    ]
    fitted, predicted = [], peaks.to_numpy().tolist()
    for method in methods:
        if external.is_external(method):
            fitted += _external(method, [record for record in records if record.case.spec.method == method])
        else:
            fitted += _registered(method)
    for record in ran:
        if external.is_external(record.case.spec.method):
            rows, missing = _stored_peaks(record)
            predicted += rows
            problems += missing
    return Estimates(
        pd.DataFrame(fitted, columns=complexity.COLUMNS).astype({"residual": float}),
        pd.DataFrame(predicted, columns=list(peaks.columns)),
        tuple(problems),
    )


def _is_vast(case: Case) -> bool:
    """Whether a tensor of the case may have more elements than PyTorch can count; a run may state any sizes."""
    spec = case.spec
    return case.batch_size * (spec.channels * spec.image_size * spec.kernel_size) ** 2 > MOST_PRODUCTS


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


def _external(layer: str, records: Sequence[Record]) -> list[complexity.Row]:
    """The rows of an external layer from its records, or rows with the reason; none for a network."""
    if all(isinstance(record.case.spec, ExternalNetworkSpec) for record in records):
        return []
    formulas = next((record.estimate.formulas for record in records if record.estimate and record.estimate.formulas), ())
    if formulas:
        try:
            return complexity.fitted_rows(stored.from_data(layer, formulas))
        except ValueError as error:
            return complexity.unknown_rows(layer, f"not counted: {error}")
    notes = [record.estimate.notes["formulas"] for record in records if record.estimate and "formulas" in record.estimate.notes]
    none_ran = not any(record.status == "ok" for record in records)
    return complexity.unknown_rows(layer, notes[0] if notes else f"not counted: {NONE_RAN if none_ran else NOT_STORED}")


def _stored_peaks(record: Record) -> tuple[list[list[object]], list[str]]:
    """Rows and problems of the case of an external layer or network."""
    estimate, case = record.estimate, record.case.id
    if estimate and "prediction" in estimate.notes:
        return [], [f"memory of {case} was not predicted: {estimate.notes['prediction']}"]
    if estimate is None or not estimate.peak_bytes:
        return [], [f"memory of {case} was not predicted: {NOT_STORED}"]
    return [[case, phase, peak] for phase, peak in estimate.peak_bytes.items()], []
