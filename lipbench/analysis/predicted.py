"""Predicted beside measured times of a run, how far they are apart, and the share of its limit that each phase reaches."""

from __future__ import annotations

import math
import os
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from lipbench_reports.tables import LIMITS

from lipbench import errors, external
from lipbench.analysis.origin import machine
from lipbench.analysis.rows import measured_rows
from lipbench.answer import Answer
from lipbench.cases import Case, columns_of
from lipbench.prediction import time
from lipbench.prediction.rates import Rates, of_device, present, read
from lipbench.prediction.time import PredictedTime
from lipbench.store.records import Run

MEASURED, PREDICTED = "measured", "predicted"
LIMIT_S = 60.0
"""seconds that a report takes for the limits of its cases"""
FAR = 2.0
"""factor from which a prediction is called far off"""


def answer(run: Run, rates: Rates) -> Answer:
    """Two rows for each phase of a case, by the column `evidence`: measured, and predicted by the kind and the bound.

    `share` of a measured row is the floor over its time. The readable table has a row per method and phase: the median error of
    the estimates, and the farthest. Raises `LipbenchError` for a run without a case that these rates are for.
    """
    rows, problems = [], []
    timed = _timed(run)
    for case, own in timed.items():
        if why := _other_device(case, rates):
            problems.append(f"{case.id}: {why}")
            continue
        try:
            found, missing = time.both(case, rates)
        except errors.LipbenchError as error:
            problems.append(f"{case.id}: {error}")
            continue
        problems += [f"{case.id}, {phase}: {why}" for phase, why in missing.items() if phase in own]
        rows += [row for phase, pair in found.items() if phase in own for row in _rows(case, phase, own[phase], pair)]
    if not rows:
        raise errors.nothing_to_compare(run.path, rates.name)
    frame = pd.DataFrame(rows)
    compared = errors_of(frame)
    return Answer(frame, _readable(compared), _remarks(compared, rates), tuple(problems))


def _other_device(case: Case, rates: Rates) -> str:
    """Why the rates are not for a case; "" where they are."""
    if case.device != rates.device:
        return f"measured on {case.device}, and the rates are of {rates.name}"
    if rates.threads is not None and case.threads != rates.threads:
        return f"measured with {case.threads} threads, and the rates with {rates.threads}"
    return ""


def _timed(run: Run) -> dict[Case, dict[str, tuple[float, float, float]]]:
    """Case → phase → time with the ends of its interval, where it was measured as the module is written."""
    cases = {record.case.id: record.case for record in run.records if not record.case.compile and not record.case.exported}
    rows = measured_rows(run)
    rows = rows[rows["case"].isin(cases) & (rows["status"] == "ok") & rows["median_s"].notna()]
    found: dict[Case, dict[str, tuple[float, float, float]]] = {}
    for name, phase, *times in rows[["case", "phase", "median_s", "low_s", "high_s"]].itertuples(index=False, name=None):
        found.setdefault(cases[name], {})[phase] = (times[0], times[1], times[2])
    return found


def _rows(
    case: Case, phase: str, measured: tuple[float, float, float], pair: Sequence[PredictedTime]
) -> Iterator[dict[str, object]]:
    shared = {**columns_of(case), "phase": phase}
    median_s, low_s, high_s = measured
    least = next(one for one in pair if one.kind == "floor")
    last = {"macs": least.macs, "bytes": least.bytes, "case": case.id}
    yield {**shared, "evidence": MEASURED, "kind": "", "seconds": median_s, "low_s": low_s, "high_s": high_s,
           "bound": "", "share": least.seconds / median_s, **last}  # fmt: skip
    for one in pair:
        yield {**shared, "evidence": PREDICTED, "kind": one.kind, "seconds": one.seconds, "low_s": math.nan, "high_s": math.nan,
               "bound": one.bound, "share": math.nan, **last}  # fmt: skip


def errors_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each estimate of a frame of `answer`: case, method, phase, and `ratio`, predicted over measured."""
    keys = ["case", "method", "phase"]
    measured = frame[frame["evidence"] == MEASURED].set_index(keys)["seconds"]
    estimates = frame[frame["kind"] == "estimate"].set_index(keys)["seconds"]
    return (estimates / measured.reindex(estimates.index)).rename("ratio").reset_index()


def _readable(compared: pd.DataFrame) -> pd.DataFrame:
    """A row per method and a column per phase: the median ratio, and the one that is farthest from 1."""
    phases = list(dict.fromkeys(compared["phase"]))
    found = compared.groupby(["method", "phase"], sort=False)["ratio"].agg(_in_words).unstack("phase")
    return found.reindex(columns=phases).fillna("").reset_index().rename_axis(columns=None)


def _in_words(ratios: pd.Series) -> str:
    farthest = ratios.iloc[int(np.argmax(np.abs(np.log(ratios))))]
    return f"{100 * (ratios.median() - 1):+.0f} %, farthest {farthest:.2f}"


def _remarks(compared: pd.DataFrame, rates: Rates) -> tuple[str, ...]:
    about = f"rates of {rates.name}, {rates.source}"
    if compared.empty:
        return (about, "floors alone: estimates need rates from lipbench calibrate")
    off = np.exp(np.abs(np.log(compared["ratio"])))
    error = (compared["ratio"] - 1).abs().median()
    worst = compared.loc[off.idxmax()]
    return (
        "predicted over measured time: the median over the cases, and the case farthest from it",
        f"median error {100 * error:.1f} % over {len(compared)} phases; {(off > FAR).sum()} are off by more than "
        f"{FAR:g}×; the farthest is {worst['ratio']:.2f}, {worst['phase']} of {worst['case']}",
        about,
    )


# ------------------------------------------------------------------------------------------------------------- for the report


def limits(run: Run, limit_s: float = LIMIT_S) -> pd.DataFrame:
    """The floor of each measured phase, in the columns of `lipbench_reports.tables.LIMITS`; of as many cases as can be counted
    within `limit_s`. Empty where the rates of the run's machine are not known."""
    known = _rates_of(machine(run))
    if known is None:
        return pd.DataFrame(columns=LIMITS)
    rows: list[dict[str, object]] = []
    begin = clock.monotonic()
    for case, own in _timed(run).items():
        if external.is_external(case.spec.method) or _other_device(case, known) or clock.monotonic() - begin > limit_s:
            continue  # reading a run must not run a stranger's code
        found, _ = time.both(case, replace(known, tables=()))
        rows += [
            {"case": case.id, "phase": phase, "seconds": own[phase][0], "floor_s": one.seconds, "bound": one.bound,
             "macs": one.macs, "bytes": one.bytes, "macs_per_s": time.peak(case, known), "bytes_per_s": known.bytes_per_s,
             "source": f"{known.name}, {known.source}"}
            for phase, (one,) in found.items() if phase in own
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=LIMITS)


def _rates_of(described: Mapping[str, Any]) -> Rates | None:
    """The rates of a machine: those of a named GPU, or those that were measured here, if this is the machine."""
    if described.get("gpu"):
        return of_device(str(described["gpu"]))
    path = present()
    if path is None or described.get("hostname") != os.uname().nodename:
        return None
    return read(path)
