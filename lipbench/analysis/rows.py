"""Tidy tables of a run: one row per case and phase, with theory; one per bound of a certificate; one per warning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from lipbench import external, registry
from lipbench.analysis.expected import expected
from lipbench.analysis.statistics import in_order, levels, time_columns, timings_by_phase
from lipbench.cases import CONDITIONS, columns_of
from lipbench.quantities import GROUPS, TRAINING_PHASES, Caution, Certificate
from lipbench.store.records import Run
from lipbench.store.rounds import Part, Record

COLUMNS = {
    "method": "str", "title": "str", "implementation": "str", "network": "str", "channels": "Int64", "image_size": "Int64",
    "kernel_size": "Int64", "batch_size": "Int64", **{one.column: one.kind for one in CONDITIONS if one.column},
    "interpreted": "boolean", "phase": "str", "status": "str", "reason": "str", "median_s": "float64",
    "low_s": "float64", "high_s": "float64", "samples": "Int64", "rounds": "Int64", "quiet_rounds": "Int64",
    "round_spread": "float64",
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
"""Every column and its type. Reports receive it too, so that this is the only list of columns."""
CERTIFICATE_COLUMNS = (
    "case", "mode", "largest", "smallest", "kind", "how", "image_size", "residual", "growing", "unknown",
)  # fmt: skip
"""mode: evaluation or training; growing: layers of a network that increase the variance over a batch; unknown: why the
bounds in evaluation mode do not tell whether the claim holds; else as in `Bound`"""
ROUND_COLUMNS = ("case", "phase", "round", "median_s", "quiet")
"""round: its number in the record, from 0; median_s: of the round's samples; quiet: no other process was busy"""
WARNING_COLUMNS = ("case", "kind", "phases", "text")
"""phases: those that the warning is about, separated by commas; kind and text as in `Caution`"""


def measured_rows(run: Run) -> pd.DataFrame:
    """One row per case and phase, in `COLUMNS`; some conditions' columns are omitted where all cases have the default.

    A failed phase has a status and a reason instead of times. A row with phase "" stands for a case that failed as a whole or
    has not run yet, and for failed parts of a case that are not phases, such as a certificate that shows a violation.

    Replicates are processes, so `median_s` is the geometric mean of the medians of the quiet rounds, and `low_s` and `high_s`
    are its 95 % interval over these rounds, by Student's t on logarithms. A round is quiet if no other process was busy; if no
    round was quiet, the phase is `contended` and all its rounds are used. `converged`: the interval is within 5 %.
    `round_spread` is the largest median of a used round divided by the smallest, minus 1. Units are SI, named in the column.
    Memory is in bytes as allocated; `saved_*` belong to the training phases. `reserved_*`, `process_*` and `workspace_bytes`,
    which no peak includes, are known on CUDA only. Values are missing if no measured phase creates them, such as gradients
    where training did not fit.
    `foreign_share`, `gpu_clock_share` and `timer_cost_s` are the worst of all rounds; `gpu_clock_limited_by` lists all reasons
    that the GPU gave for a lower clock. `warnings` has one line per warning.
    `certificate` is the Lipschitz constant to quote for evaluation mode, of the kind `certificate_kind`; NaN where none was
    determined. Every row of a case has it, also those of failures.
    `compile_s` is the first call of a compiled phase minus its median: the compile time, unless an earlier phase has compiled
    the same code. `interpreted` times are meaningless: Triton kernels ran in their interpreter.
    """
    found = [row for record in run.records for row in _case_rows(record)]
    titles = external.titles(dict.fromkeys(row["method"] for row in found))
    found = [row | {"title": titles.get(row["method"], row["title"])} for row in found]
    frame = pd.DataFrame(found, columns=list(COLUMNS))
    frame = frame.astype({name: "object" if kind == "str" else kind for name, kind in COLUMNS.items()})
    frame = frame.fillna({name: "" for name, kind in COLUMNS.items() if kind == "str"})
    return frame.drop(columns=[
        one.column for one in CONDITIONS
        if one.column and not one.always_exported and (frame[one.column] == one.default).all()
    ])  # fmt: skip


def _case_rows(record: Record) -> Iterator[dict[str, Any]]:
    conditions = _conditions(record)
    timings = timings_by_phase(record)
    if record.is_broken or not timings:
        broken = record.parts.get("certificate", Part())
        ending = broken if broken.status == "not_lipschitz" else Part(record.status if record.sittings else "", record.reason)
        yield {**conditions, "phase": "", "status": ending.status, "reason": ending.reason, "rounds": len(record.rounds)}
        return
    failures = _failures(record)
    for phase in in_order((*timings, *(phase for phase in failures if phase))):
        row = {**conditions, "phase": phase, **failures.get(phase, {"status": "ok", "reason": ""})}
        if phase in timings and row["status"] == "ok":
            row |= time_columns(timings[phase], record.case)
        else:
            row["rounds"] = len(record.rounds)
        yield {**row, **_memory(record, phase), **_macs(record, phase), **expected(record.case, phase)}
    if "" in failures:
        yield {**conditions, "phase": "", **failures[""], "rounds": len(record.rounds)}


def round_rows(run: Run) -> pd.DataFrame:
    """One row per case, phase and round, in `ROUND_COLUMNS`; rounds of one number were measured after one another."""
    found = [
        {"case": record.case.id, "phase": phase, "round": level.round, "median_s": level.median_s, "quiet": level.quiet}
        for record in run.records for phase, timings in timings_by_phase(record).items() for level in levels(timings)
    ]  # fmt: skip
    return pd.DataFrame(found, columns=list(ROUND_COLUMNS))


def _failures(record: Record) -> dict[str, dict[str, str]]:
    """Phase → status and reason, for the failed parts of a case; "" stands for parts that are not phases."""
    found: dict[str, dict[str, str]] = {}
    for name, part in record.parts.items():
        if part.status != "ok":
            reason = part.reason if name in GROUPS else f"{name}: {part.reason}"
            for phase in GROUPS.get(name, ("",)):
                found.setdefault(phase, {"status": part.status, "reason": reason})
    return found


def _conditions(record: Record) -> dict[str, Any]:
    case, method = record.case, record.case.spec.method
    known = registry.methods().get(method)
    return {
        **columns_of(case),
        "title": known.title if known else external.title(method),
        "interpreted": _is_interpreted(record),
        **_certificate(record.certificate),
        "warnings": "\n".join(dict.fromkeys(found.text for found in _warnings(record))), "case": case.id,
    }  # fmt: skip


def _warnings(record: Record) -> dict[Caution, None]:
    """The warnings of all rounds and examinations, each once."""
    return dict.fromkeys(found for one in record.sittings for found in one.warnings)


def warning_rows(run: Run) -> pd.DataFrame:
    """One row per case and warning, in `WARNING_COLUMNS`."""
    found = [
        {"case": record.case.id, "kind": one.kind, "phases": ", ".join(one.phases), "text": one.text}
        for record in run.records for one in _warnings(record)
    ]  # fmt: skip
    return pd.DataFrame(found, columns=list(WARNING_COLUMNS))


def _is_interpreted(record: Record) -> bool:
    """Whether a round ran Triton kernels in their interpreter; False for cases that use no Triton kernels."""
    machines = [one.machine for one in record.rounds if one.machine]
    return registry.needs_triton(record.case.spec) and any(one.flags.get("triton") == "interpreter" for one in machines)


def _certificate(found: Certificate | None) -> dict[str, Any]:
    """The bounds to quote, one per mode."""
    quoted: dict[str, Any] = {}
    if found and found.evaluation:
        bound = found.evaluation[0]
        quoted |= {"certificate": bound.largest, "certificate_smallest": bound.smallest, "certificate_kind": bound.kind,
                   "certificate_how": bound.how}  # fmt: skip
    if found and found.training:
        quoted |= {"certificate_training": found.training[0].largest, "certificate_training_kind": found.training[0].kind}
    return quoted


def certificate_rows(run: Run) -> pd.DataFrame:
    """One row per case, mode and bound, in `CERTIFICATE_COLUMNS`; the first of a case and mode is the one to quote."""
    found = [
        {"case": record.case.id, "mode": mode, **asdict(bound), "growing": ", ".join(certificate.growing),
         "unknown": certificate.unknown}
        for record in run.records if (certificate := record.certificate)
        for mode, bounds in (("evaluation", certificate.evaluation), ("training", certificate.training)) for bound in bounds
    ]  # fmt: skip
    return pd.DataFrame(found, columns=list(CERTIFICATE_COLUMNS))


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
