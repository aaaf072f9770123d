"""The rates of this machine, measured twice, and whether they are repeatable."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime

import pandas as pd
import torch

from lipbench.answer import Answer
from lipbench.calibration import overheads, sweep
from lipbench.calibration.calls import MEASURED, Measured
from lipbench.calibration.sweep import Point, Progress
from lipbench.meters import machine
from lipbench.meters.machine import Watch
from lipbench.prediction.rates import Rates

OK, NOISY = "ok", "too noisy"
LARGEST_SHARE = 0.1
"""share of the sizes of a form whose times may differ in all sweeps"""
COLUMNS = ["form", "dtype", "sizes", "largest_rate", "unit", "difference", "unsettled", "outcome"]


def calibrate(tell: Progress = lambda *_: None, measured: Sequence[Measured] | None = None) -> tuple[Rates, Answer]:
    """The rates of this machine with the threads that PyTorch has now, and a table with a row for each form.

    Call this in a fresh process. The answer is undecided if the rates of a form cannot be repeated. `difference` is the median,
    over the sizes, of how much two sweeps differ; `unsettled` counts the sizes where no two of three times agree within 10 %.
    """
    machine.set_precision("ieee")
    torch.manual_seed(0)
    started, threads = datetime.now(UTC).isoformat(timespec="seconds"), torch.get_num_threads()
    with Watch("cpu", threads) as watched, torch.no_grad():
        found = sweep.swept(MEASURED if measured is None else measured, tell)
    costs = overheads.measure()
    rows = [_row(one, list(own)) for one, own in itertools.groupby(found, key=lambda point: point.measured)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if watched.contention.contended:
        frame["outcome"] = NOISY
    described = machine.describe("cpu", threads)
    rates = Rates(
        name=described.cpu,
        source=f"measured with {threads} {'thread' if threads == 1 else 'threads'}, {started}",
        device="cpu",
        macs_per_s=_peaks(found),
        bytes_per_s=max(_rate(point) for point in found if point.measured.form in MOVES),
        threads=threads,
        started=started,
        machine=described,
        overheads_s=costs,
        tables=tuple(sweep.tables(found)),
    )
    remarks = (*_remarks(frame, costs, watched.contention.foreign_share),)
    return rates, Answer(frame, _readable(frame), remarks, undecided=bool((frame["outcome"] == NOISY).any()))


MOVES = ("elementwise", "complex elementwise", "fill", "reduction", "reduction of some dimensions", "rearrangement")
_PEAKS = ("product", "convolution")
"""forms whose work is that of `Operation.bytes` and `Operation.macs`, so that they give bandwidth and peaks"""


def _rate(point: Point) -> float:
    return point.measured.work(*point.sizes) / point.median_s


def _peaks(found: Sequence[Point]) -> dict[str, float]:
    """Largest multiply-accumulates per second of products and convolutions, by dtype."""
    known: dict[str, float] = {}
    for point in found:
        name = str(point.measured.dtype).removeprefix("torch.")
        if point.measured.form in _PEAKS and not point.measured.dtype.is_complex:
            known[name] = max(known.get(name, 0.0), _rate(point))
    return known


def _row(measured: Measured, found: Sequence[Point]) -> tuple[object, ...]:
    moves = measured.form in MOVES
    differences = [abs(math.log(point.seconds[1] / point.seconds[0])) for point in found]
    unsettled = sum(point.differs for point in found)
    outcome = NOISY if unsettled > LARGEST_SHARE * len(found) else OK
    dtype = str(measured.dtype).removeprefix("torch.")
    rate = max(map(_rate, found))
    return measured.form, dtype, len(found), rate, "B/s" if moves else "1/s", statistics.median(differences), unsettled, outcome


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    units = {"B/s": "GB/s", "1/s": "GMAC/s"}
    rates = [f"{rate / 1e9:.3g} {units[unit]}" for rate, unit in zip(frame["largest_rate"], frame["unit"])]
    differences = [f"{100 * share:.1f} %" for share in frame["difference"]]
    return frame.assign(largest_rate=rates, difference=differences)[
        ["form", "dtype", "sizes", "largest_rate", "difference", "unsettled", "outcome"]
    ].rename(columns={"largest_rate": "largest rate"})


def _remarks(frame: pd.DataFrame, costs: dict[str, float], foreign_share: float) -> tuple[str, ...]:
    noisy = (frame["outcome"] == NOISY).sum()
    overhead = ", ".join(f"{name} {1e6 * value:.2f} µs" for name, value in costs.items())
    return (
        f"dispatch and Python: {overhead}",
        f"other processes used {foreign_share:.1%} of the cores",
        f"{len(frame) - noisy} ok, {noisy} too noisy" + ("; see lipbench doctor" if noisy else ""),
    )
