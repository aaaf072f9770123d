"""The report: one self-contained HTML document that loads nothing from the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from lipbench_reports import (
    accuracy,
    against_theory,
    agreement,
    certificates,
    changed,
    compilation,
    figures,
    findings,
    measurements,
    pairs,
    provenance,
    training_section,
    trainings,
)
from lipbench_reports.cells import MARKS, TIMES, with_unit
from lipbench_reports.costs import Costs, costs
from lipbench_reports.look import DARK, LIGHT, Look, looks
from lipbench_reports.page import ENVIRONMENT, digest, source
from lipbench_reports.prepared import Prepared, prepare
from lipbench_reports.tables import Tables, as_text, with_columns
from lipbench_reports.trainings import Arena
from lipbench_reports.verdict import cases, compared, excluded, unfinished, unproven, verdict


def render(tables: Tables) -> str:
    """The whole document. Incomplete runs raise no error: missing parts are left out, and the page says so where it matters."""
    ready = prepare(tables)
    found = costs(ready)
    profiled = bool(len(ready.rows)) or tables.trained.trainings.empty
    arenas = trainings.arenas(tables.trained, list(ready.methods["method"].astype(str)))
    look = _looks(ready, arenas)
    script = source("sort.js")
    clock = ready.rows["timer_cost_s"].max()
    left = unfinished(tables)[0]
    return ENVIRONMENT.get_template("report.html").render(
        title=tables.title,
        verdict=[*(verdict(ready, found) if profiled else ()), *compilation.verdict(ready), *accuracy.verdict(arenas)],
        profiled=profiled,
        trained=training_section.section(tables.trained, arenas, look, _scores(ready, found)),
        style=Markup(source("style.css")),
        script=Markup(script),
        script_digest=digest(script),
        light=list(enumerate(LIGHT)),
        dark=list(enumerate(DARK)),
        looks=look,
        marks=MARKS,
        marker_ids={key: f"marker-{place}" for place, key in enumerate(look)},
        common=ready.common,
        shape=ready.place,
        has_numbers=bool(ready.cases),
        sources=_sources(ready),
        doubts=findings.warnings(tables, ready.rows, ready.labels),
        failures=findings.failure_table(tables.certificates, ready.rows, ready.labels),
        failed=len(ready.failed_cases),
        unfinished=cases(left) if left else "",
        machine=provenance.machine(tables.run.get("machine")),
        command=provenance.command(tables.run),
        measured=provenance.measured(tables.run, _on_gpu(ready)),
        provenance=provenance.origin(tables.run),
        limits=provenance.pairs(tables.run.get("limits")),
        clock=with_unit(clock, TIMES) if math.isfinite(clock) else "",
        **_results(ready, found),
        **_proofs(ready.written, found),
        **_pictures(ready, found, look),
    )  # fmt: skip


def _looks(ready: Prepared, arenas: Sequence[Arena]) -> dict[str, Look]:
    """The looks of all series and groups of trainings."""
    series = [(one.key, one.method, one.implementation) for one in ready.series]
    groups = [(one.key, one.text("method"), one.text("implementation")) for arena in arenas for one in arena.groups]
    return looks([*series, *groups], ready.methods["method"].astype(str))


def _scores(ready: Prepared, found: Costs) -> dict[tuple[str, str], dict[str, float]]:
    """The scores of costs by method, implementation and axis."""
    scored = measurements.scores(ready, found)
    series = {one.key: (one.method, one.implementation) for one in found.series}
    return {series[key]: axes for key, axes in scored[1].items()} if scored else {}


def _on_gpu(ready: Prepared) -> bool:
    trained = with_columns(ready.tables.trained.trainings, ["device"])["device"]
    return bool((ready.rows["device"] == "cuda").any() or (trained == "cuda").any())


def _sources(ready: Prepared) -> list[tuple[str, str]]:
    """The titles of the methods in this run, and where each was published."""
    here, methods = set(ready.rows["method"]), ready.methods
    named = zip(methods["method"], methods["title"], methods["source"])
    return [(title, source) for name, title, source in named if name in here and as_text(source)]


def _results(ready: Prepared, found: Costs) -> dict[str, object]:
    """The tables of results. A table at the reference shape is repeated for all shapes if there are several."""
    at_shape, written = ready.at_shape, ready.written
    several = ready.has_several_shapes
    formulas = against_theory.Formulas(ready.tables.complexity)
    return {
        "reference": found.reference.label if found.reference else None,
        "is_yardstick": found.reference is not None and found.reference.method == "standard",
        "excluded": excluded(found),
        "unproven": unproven(found),
        "compared": compared(found),
        "summary": measurements.summary(ready, found),
        "numbers": measurements.plain_numbers(at_shape, "Measured", with_shape=False),
        "all_numbers": measurements.plain_numbers(ready, "All measurements", with_shape=True) if several else None,
        "macs": against_theory.macs(written.at_shape, formulas, "Multiply-accumulates of a training forward pass"),
        "all_macs": against_theory.macs(written, formulas, "Multiply-accumulates, all cases") if several else None,
        "elements": against_theory.elements(written.at_shape, formulas, "Elements kept for the backward pass"),
        "all_elements": against_theory.elements(written, formulas, "Elements kept, all cases") if several else None,
        "fitted": [table for quantity in ("macs", "memory") if (table := agreement.formulas(ready, formulas, quantity))],
        "held": measurements.held(ready),
        "exponents": against_theory.exponents(ready),
        "half_precision": pairs.half_precision(ready),
        "exports": pairs.exports(ready),
        "compiled": compilation.changes(at_shape),
        "all_compiled": compilation.changes(ready) if several else None,
        "has_base": not ready.tables.changes.empty,
        "changed": ready.tables.changed,
        "changes": changed.changes(ready, every=False),
        "all_changes": changed.changes(ready, every=True),
        "shares": measurements.shares(at_shape),
        "all_shares": measurements.shares(ready) if several else None,
        "epochs": measurements.epochs(written),
    }


def _proofs(written: Prepared, found: Costs) -> dict[str, object]:
    """The tables of certificates, and those that compare ways to find one number.

    They show uncompiled cases only: compiling changes neither the function nor its counts, and memory is predicted for
    uncompiled code.
    """
    at_shape, several = written.at_shape, written.has_several_shapes
    return {
        "iterations": against_theory.iterations(written),
        "padded": any("<mi>n</mi>" in as_text(formula) for formula in written.tables.fitted.get("fitted_mathml", ())),
        "shrinking": certificates.shrinking(written),
        "constants": certificates.quoted_table(written, found.yardsticks),
        "bounds": certificates.bounds_table(written),
        "yardsticks": [one.label for one in found.series if one.key in found.yardsticks],
        "counts": agreement.counts(at_shape),
        "all_counts": agreement.counts(written) if several else None,
        "peaks": agreement.peaks(at_shape, "Peaks of memory"),
        "all_peaks": agreement.peaks(written, "Peaks of memory, all cases") if several else None,
    }


def _pictures(ready: Prepared, found: Costs, look: Mapping[str, Look]) -> dict[str, object]:
    scored = measurements.scores(ready, found)
    drawn = figures.radars(scored[1], ready.labels, look) if scored else []
    shown = {key for key, _ in drawn}
    return {
        "plots": [(plot, panels) for plot in figures.PLOTS if (panels := figures.panels(plot, ready, look))],
        "scores": scored[0] if scored else None,
        "radars": drawn,
        "radar_absent": [
            one.label for one in found.series if drawn and one.key not in shown and one.key not in found.yardsticks
        ],
        "labels": ready.labels,
    }
