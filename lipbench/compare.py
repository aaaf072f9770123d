"""A run beside theory: one tidy row per case and phase, its certificates, and exponents fitted over the channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lipbench import registry, table1
from lipbench.cases import TRITON, Case, NetworkSpec
from lipbench.quantities import GROUPS, PHASES, TRAINING_PHASES, Certificate, Timing
from lipbench.records import Run
from lipbench.rounds import Part, Record

_COLUMNS = {
    "method": "str", "title": "str", "implementation": "str", "network": "str", "channels": "Int64", "image_size": "Int64",
    "kernel_size": "Int64", "batch_size": "Int64", "dtype": "str", "precision": "str", "device": "str", "threads": "Int64",
    "compiled": "boolean", "interpreted": "boolean", "phase": "str", "status": "str", "reason": "str", "median_s": "float64",
    "p20_s": "float64", "p80_s": "float64", "samples": "Int64", "rounds": "Int64", "round_spread": "float64",
    "contended": "boolean", "foreign_share": "float64", "gpu_clock_share": "float64", "gpu_clock_limited_by": "str",
    "converged": "boolean", "outliers": "Int64", "timer_cost_s": "float64",
    "host_median_s": "float64", "launch_bound": "boolean", "peak_memory_bytes": "Int64", "peak_above_baseline_bytes": "Int64",
    "reserved_memory_bytes": "Int64", "process_memory_bytes": "Int64", "saved_memory_bytes": "Int64",
    "saved_input_half_bytes": "float64", "saved_parameter_half_bytes": "float64", "parameter_bytes": "Int64",
    "buffer_bytes": "Int64", "gradient_bytes": "Int64", "optimizer_bytes": "Int64", "input_bytes": "Int64",
    "output_bytes": "Int64", "workspace_bytes": "Int64", "macs": "Int64",
    "theory_macs": "float64", "theory_memory_elements": "float64", "published_macs": "float64",
    "published_memory_elements": "float64", "published_convention_macs": "Int64", "fvcore_macs": "Int64",
    "fvcore_unsupported": "str", "macs_unsupported": "str", "images_per_s": "float64", "compile_s": "float64",
    "certificate": "float64", "certificate_smallest": "float64", "certificate_kind": "str", "certificate_how": "str",
    "certificate_training": "float64", "certificate_training_kind": "str", "warnings": "str", "case": "str",
}  # fmt: skip
COLUMNS = tuple(_COLUMNS)
OUTLIER_RANGES = 1.5
"""A sample further than this many interquartile ranges from the quartiles is counted as an outlier; it stays."""
LAUNCH_BOUND_SHARE = 0.9
"""A GPU that waits for the host takes hardly longer than the host does, its last kernel and the lead it was given apart."""
LEAST_CHANNELS = 3
"""Different numbers of channels that an exponent is fitted to, at least."""
CONFIDENCE = 0.95
CERTIFICATE_COLUMNS = (
    "case", "mode", "largest", "smallest", "kind", "how", "image_size", "residual", "growing",
)  # fmt: skip
"""mode: evaluation or training; growing: a network's layers that let the variance over a batch grow; else as in `Bound`"""
SETTING = ["image_size", "kernel_size", "batch_size", "dtype", "precision", "device", "threads"]


def rows(run: Run) -> pd.DataFrame:
    """One row per case and phase, in `COLUMNS`.

    A phase that failed has its status and reason in the place of times. One row with phase "" stands for a case that failed as
    a whole, is not 1-Lipschitz or has not run yet, and for what failed of a case beside its phases.

    Replicates are processes, so median, p20 and p80 are each the median over rounds of that quantile of the round's samples.
    `round_spread` is the largest median of a round over the smallest, less 1. SI units, named in the column. Memory in bytes
    as the allocator handed them out; `saved_*` belong to the training phases. `reserved_*`, `process_*` and `workspace_bytes`,
    which no peak includes, are known on CUDA. What no measured phase makes, such as gradients where training did not fit, is
    missing.
    `foreign_share`, `gpu_clock_share` and `timer_cost_s` are the worst of all rounds; `gpu_clock_limited_by` has all that the
    GPU gave as a reason for a lower clock. `warnings` has one line each.
    `certificate` is the Lipschitz constant in evaluation mode to quote, as far as `certificate_kind` says; NaN where none was
    determined. It stands beside every phase, and beside a failure.
    `compile_s` is the first call of a compiled phase less its median: what compiling took, as far as no phase before it had
    paid for it. `interpreted` times say nothing: Triton kernels ran in their interpreter.
    """
    found = [row for record in run.records for row in _case_rows(record)]
    frame = pd.DataFrame(found, columns=list(COLUMNS))
    frame = frame.astype({name: "object" if kind == "str" else kind for name, kind in _COLUMNS.items()})
    return frame.fillna({name: "" for name, kind in _COLUMNS.items() if kind == "str"})


def _case_rows(record: Record) -> Iterator[dict[str, Any]]:
    conditions = _conditions(record)
    timings = timings_by_phase(record)
    broken = record.parts.get("certificate", Part())
    if broken.status == "not_lipschitz" or record.is_broken or not timings:
        ending = broken if broken.status == "not_lipschitz" else Part(record.status if record.sittings else "", record.reason)
        yield {**conditions, "phase": "", "status": ending.status, "reason": ending.reason, "rounds": len(record.rounds)}
        return
    endings = _endings(record)
    for phase in _in_order((*timings, *(phase for phase in endings if phase))):
        row = {**conditions, "phase": phase, **endings.get(phase, {"status": "ok", "reason": ""})}
        if phase in timings and row["status"] == "ok":
            row |= _time(timings[phase], record.case)
        else:
            row["rounds"] = len(record.rounds)
        yield {**row, **_memory(record, phase), **_macs(record, phase), **table1.expected(record.case, phase)}
    if "" in endings:
        yield {**conditions, "phase": "", **endings[""], "rounds": len(record.rounds)}


def _endings(record: Record) -> dict[str, dict[str, str]]:
    """Phase → status and reason of what failed of a case; "" for parts that are no phases."""
    found: dict[str, dict[str, str]] = {}
    for name, part in record.parts.items():
        if part.status != "ok":
            reason = part.reason if name in GROUPS else f"{name}: {part.reason}"
            for phase in GROUPS.get(name, ("",)):
                found.setdefault(phase, {"status": part.status, "reason": reason})
    return found


def _conditions(record: Record) -> dict[str, Any]:
    case, spec = record.case, record.case.spec
    known = registry.methods().get(spec.method)
    return {
        "method": spec.method,
        "title": known.title if known else spec.method.rpartition(":")[2],
        "implementation": spec.implementation,
        "network": spec.size if isinstance(spec, NetworkSpec) else "",
        "channels": spec.channels,
        "image_size": spec.image_size, "kernel_size": spec.kernel_size, "batch_size": case.batch_size, "dtype": case.dtype,
        "precision": case.precision, "device": case.device, "threads": case.threads,
        "compiled": case.compile, "interpreted": _is_interpreted(record),
        **_certificate(record.certificate),
        "warnings": "\n".join(dict.fromkeys(line for one in record.sittings for line in one.warnings)), "case": case.id,
    }  # fmt: skip


def _is_interpreted(record: Record) -> bool:
    """Whether a round ran Triton kernels in their interpreter. What uses none of them is not slowed by it."""
    machines = [one.machine for one in record.rounds if one.machine]
    return record.case.spec.implementation == TRITON and any(one.flags.get("triton") == "interpreter" for one in machines)


def _certificate(found: Certificate | None) -> dict[str, Any]:
    """The bounds to quote, one of each mode."""
    quoted: dict[str, Any] = {}
    if found and found.evaluation:
        bound = found.evaluation[0]
        quoted |= {"certificate": bound.largest, "certificate_smallest": bound.smallest, "certificate_kind": bound.kind,
                   "certificate_how": bound.how}  # fmt: skip
    if found and found.training:
        quoted |= {"certificate_training": found.training[0].largest, "certificate_training_kind": found.training[0].kind}
    return quoted


def certificates(run: Run) -> pd.DataFrame:
    """One row per case, mode and bound, in `CERTIFICATE_COLUMNS`; the first of a case and mode is the one to quote."""
    found = [
        {"case": record.case.id, "mode": mode, **asdict(bound), "growing": ", ".join(certificate.growing)}
        for record in run.records if (certificate := record.certificate)
        for mode, bounds in (("evaluation", certificate.evaluation), ("training", certificate.training)) for bound in bounds
    ]  # fmt: skip
    return pd.DataFrame(found, columns=list(CERTIFICATE_COLUMNS))


def timings_by_phase(record: Record) -> dict[str, list[Timing]]:
    """The timings of all rounds, by phase in the order of `PHASES`; phases of other names after them."""
    present = [one.phases for one in record.rounds if one.phases]
    order = _in_order(name for phases in present for name in phases)
    return {name: [phases[name] for phases in present if name in phases] for name in order}


def _in_order(names: Iterable[str]) -> list[str]:
    """Each once, those of `PHASES` first."""
    found = dict.fromkeys(names)
    return [*(name for name in PHASES if name in found), *(name for name in found if name not in PHASES)]


# ------------------------------------------------------------------------------------------------------------- statistics


def round_medians_s(timings: Sequence[Timing]) -> list[float]:
    """The median of each round, in seconds."""
    return [float(np.median(timing.samples_s)) for timing in timings]


def _time(timings: Sequence[Timing], case: Case) -> dict[str, Any]:
    quantiles = np.array([np.quantile(timing.samples_s, (0.2, 0.5, 0.8)) for timing in timings])
    p20, median, p80 = np.median(quantiles, axis=0)
    host = [float(np.median(timing.host_s)) for timing in timings if timing.host_s]
    contentions = [timing.contention for timing in timings if timing.contention is not None]
    clocks = [one.gpu_clock_share for one in contentions if one.gpu_clock_share is not None]
    medians = quantiles[:, 1]
    return {
        "median_s": median, "p20_s": p20, "p80_s": p80,
        "samples": sum(len(timing.samples_s) for timing in timings), "rounds": len(timings),
        "round_spread": medians.max() / medians.min() - 1 if medians.min() > 0 else math.nan,
        "contended": any(one.contended for one in contentions) if contentions else None,
        "foreign_share": max((one.foreign_share for one in contentions), default=math.nan),
        "gpu_clock_share": min(clocks, default=math.nan),
        "gpu_clock_limited_by": ", ".join(dict.fromkeys(text for one in contentions for text in one.gpu_clock_limited_by)),
        "converged": all(timing.converged for timing in timings),
        "outliers": sum(map(_outliers, timings)),
        "timer_cost_s": max(timing.timer_cost_s for timing in timings),
        "host_median_s": np.median(host) if host else math.nan,
        "launch_bound": bool(np.median(host) >= LAUNCH_BOUND_SHARE * median) if host else None,
        "images_per_s": case.batch_size / median if median > 0 else math.nan,
        "compile_s": _compile_s(timings) if case.compile else math.nan,
    }  # fmt: skip


def _compile_s(timings: Sequence[Timing]) -> float:
    """Median over the rounds, each of which compiled afresh; 0 where the first call was no slower than the median."""
    first_calls = [timing.first_call_s - float(np.median(timing.samples_s)) for timing in timings]
    return max(0.0, float(np.median(first_calls)))


def _outliers(timing: Timing) -> int:
    low, high = np.quantile(timing.samples_s, (0.25, 0.75))
    reach = OUTLIER_RANGES * (high - low)
    return int(sum(sample < low - reach or sample > high + reach for sample in timing.samples_s))


_HELD = (
    "parameter_bytes", "buffer_bytes", "gradient_bytes", "optimizer_bytes", "input_bytes", "output_bytes", "workspace_bytes",
)  # fmt: skip


def _memory(record: Record, phase: str) -> dict[str, Any]:
    memory = record.memory
    if memory is None:
        return {}
    found: dict[str, Any] = {name: getattr(memory, name) for name in _HELD}
    if phase in memory.peaks:
        peak = memory.peaks[phase]
        found |= {
            "peak_memory_bytes": peak.total_bytes, "peak_above_baseline_bytes": peak.above_baseline_bytes,
            "reserved_memory_bytes": peak.reserved_bytes, "process_memory_bytes": peak.process_bytes,
        }  # fmt: skip
    if phase in TRAINING_PHASES:
        found |= {
            "saved_memory_bytes": memory.saved_bytes,
            "saved_input_half_bytes": _times(memory.saved_per_image_bytes, record.case.batch_size),
            "saved_parameter_half_bytes": memory.saved_constant_bytes,
        }
    return found


def _times(value: float | None, factor: int) -> float | None:
    return None if value is None else value * factor


def _macs(record: Record, phase: str) -> dict[str, Any]:
    macs = record.macs
    if macs is None:
        return {}
    found: dict[str, Any] = {
        "macs": macs.phases.get(phase), "published_convention_macs": macs.published_phases.get(phase),
        "macs_unsupported": ", ".join(macs.unsupported),
    }  # fmt: skip
    if phase == "forward":
        found |= {"fvcore_macs": macs.fvcore_forward, "fvcore_unsupported": ", ".join(macs.fvcore_unsupported)}
    return found


# -------------------------------------------------------------------------------------------------------------- exponents


@dataclass(frozen=True)
class Fit:
    """A power law through points: its exponent and the ends of the 95 % interval, NaN where the points are too few for one."""

    exponent: float
    low: float
    high: float


def power_law(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Least squares on logarithms; the interval by Student's t. All values must be positive, two of x different."""
    if len(x) < 3:
        slope = math.log(y[-1] / y[0]) / math.log(x[-1] / x[0])
        return Fit(slope, math.nan, math.nan)
    line = stats.linregress(np.log(x), np.log(y))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2)) * float(line.stderr)
    return Fit(float(line.slope), float(line.slope) - reach, float(line.slope) + reach)


def exponents(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Exponents in the channels of every quantity, beside those of the formulas; `frame` is `rows(run)`.

    Layers only, where at least three numbers of channels were measured at equal other sizes; of several such series of a
    method and implementation, compiled or not, the one with the most channels; nothing that was interpreted. Times are fitted
    to the median of each round. What is counted has no errors: beside its fit stand, in place of the interval, the least and
    the greatest slope between neighbouring channels. `theory_exponent` is the same fit to the exact formula's numbers,
    `leading_exponent` that of Table 1.
    """
    medians = {
        (record.case.id, phase): round_medians_s(timings)
        for record in run.records
        for phase, timings in timings_by_phase(record).items()
    }
    layers = frame[(frame["network"] == "") & (frame["phase"] != "") & ~frame["interpreted"].astype(bool)]
    found = []
    for _, own in layers.groupby(["method", "implementation", "compiled"], sort=False):
        series = max((one for _, one in own.groupby(SETTING, sort=False)), key=lambda one: one["channels"].nunique())
        found += [row for quantity in _quantities(series) if (row := _exponent_row(series, quantity, medians))]
    return pd.DataFrame(found, columns=["method", "title", "implementation", "compiled", *_EXPONENT_COLUMNS])


_EXPONENT_COLUMNS = (
    "quantity", "exponent", "low", "high", "least_slope", "greatest_slope", "points", "theory_exponent", "leading_exponent",
)  # fmt: skip


@dataclass(frozen=True)
class _Quantity:
    name: str
    phase: str
    column: str
    theory_column: str | None
    published: str | None
    """which of Table 1's formulas it is held against"""


def _quantities(series: pd.DataFrame) -> Iterator[_Quantity]:
    for phase in series["phase"].unique():
        yield _Quantity(f"time: {phase}", phase, "median_s", "theory_macs", None if phase == "first_inference" else "macs")
    yield _Quantity("MACs: forward", "forward", "macs", "theory_macs", "macs")
    yield _Quantity("saved memory", "forward", "saved_memory_bytes", "theory_memory_elements", "memory")
    yield _Quantity("peak memory: step", "step", "peak_memory_bytes", None, None)


def _positive_points(rows_of_phase: pd.DataFrame, column: str) -> list[tuple[float, float]]:
    pairs = rows_of_phase[["channels", column]].dropna().to_numpy(dtype=float)
    return [(float(channels), float(value)) for channels, value in pairs if value > 0]


def _spans(points: Sequence[tuple[float, float]]) -> bool:
    return len({channels for channels, _ in points}) >= LEAST_CHANNELS


def _exponent_row(
    series: pd.DataFrame, quantity: _Quantity, medians: dict[tuple[str, str], list[float]]
) -> dict[str, Any] | None:
    chosen = series[series["phase"] == quantity.phase]
    points = [
        (float(row["channels"]), float(value))
        for _, row in chosen.iterrows()
        for value in (
            medians.get((row["case"], quantity.phase), []) if quantity.column == "median_s" else [row[quantity.column]]
        )
        if pd.notna(value) and value > 0
    ]
    if not _spans(points):
        return None
    fit = power_law(*zip(*points))
    spread: dict[str, float] = {"low": fit.low, "high": fit.high}
    if quantity.column != "median_s":
        steps = [pair for pair in itertools.pairwise(sorted(points)) if pair[0][0] < pair[1][0]]
        slopes = [power_law(*zip(*pair)).exponent for pair in steps]
        spread = {"least_slope": min(slopes), "greatest_slope": max(slopes)}
    theory = _positive_points(chosen, quantity.theory_column) if quantity.theory_column else []
    method = str(chosen["method"].iloc[0])
    return {
        "method": method, "title": chosen["title"].iloc[0], "implementation": chosen["implementation"].iloc[0],
        "compiled": bool(chosen["compiled"].iloc[0]),
        "quantity": quantity.name, "exponent": fit.exponent, **spread, "points": len(points),
        "theory_exponent": power_law(*zip(*theory)).exponent if _spans(theory) else math.nan,
        "leading_exponent": math.nan if quantity.published is None
        else table1.leading_exponent(method, quantity.published, quantity.phase),
    }  # fmt: skip
