"""Counts in the measuring process what a report shows beside an external layer: its formulas, and the memory of a case."""

from __future__ import annotations

from dataclasses import replace

from lipbench.cases import Case
from lipbench.quantities import Estimate


def counted(case: Case, part: str, known: Estimate) -> Estimate:
    """The `known` estimate with one more part of `quantities.ESTIMATED`.

    Raises `LipbenchError` for a layer that cannot be counted, and whatever its code raises.
    """
    if part == "formulas":
        from lipbench.prediction import complexity, stored

        return replace(known, formulas=stored.as_data(complexity.fit_layer.__wrapped__(case.spec.method)))
    from lipbench.prediction import memory

    peaks, problems = memory.peaks([case])
    notes = {**known.notes, **dict.fromkeys([part] * bool(problems), "; ".join(problems))}
    found = dict(zip(peaks["phase"], map(int, peaks["predicted_peak_bytes"])))
    return replace(known, peak_bytes=found, notes=notes)
