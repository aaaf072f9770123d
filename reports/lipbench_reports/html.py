"""The report: one self-contained HTML document that loads nothing from the network."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
    first_screen,
    forms,
    limits,
    measurements,
    pairs,
    provenance,
    radar,
    recomputation,
    training_section,
    trainings,
)
from lipbench_reports.brief import sentences
from lipbench_reports.cells import MARKS, TIMES, Table, with_unit
from lipbench_reports.costs import Costs, costs
from lipbench_reports.look import DARK, LIGHT, Look, looks
from lipbench_reports.page import ENVIRONMENT, digest, source
from lipbench_reports.prepared import Prepared, prepare
from lipbench_reports.tables import Tables, as_text, with_columns
from lipbench_reports.trainings import Arena
from lipbench_reports.verdict import cases, compared, excluded, unfinished, unproven

MOST_ENTRIES = 100
"""number of entries of a warning, and of failures, that are listed"""
SCRIPTS = ("sort.js", "figures.js", "links.js")


def render(tables: Tables) -> str:
    """The whole document. Incomplete runs raise no error: missing parts are left out, and the page says so where it matters."""
    ready = prepare(tables)
    found = costs(ready)
    profiled = bool(len(ready.rows)) or tables.trained.trainings.empty
    arenas = trainings.arenas(tables.trained, list(ready.methods["method"].astype(str)))
    look = _looks(ready, arenas)
    script = "\n".join(map(source, SCRIPTS))
    clock = ready.rows["timer_cost_s"].max()
    left = unfinished(tables)[0]
    return ENVIRONMENT.get_template("report.html").render(
        title=tables.title,
        answer=[*([first_screen.sentence(ready, found)] if profiled else ()), *accuracy.verdict(arenas, 1)[:1]],
        verdict=sentences(ready, found) if profiled else (),
        contents=contents,
        profiled=profiled,
        trained=training_section.section(tables.trained, arenas, look, _scores(ready, found)),
        style=Markup(source("style.css")),
        script=Markup(script),
        script_digest=digest(script),
        light=list(enumerate(LIGHT)),
        dark=list(enumerate(DARK)),
        looks=look,
        names={**ready.labels, **{one.key: one.label for arena in arenas for one in arena.groups}},
        most_entries=MOST_ENTRIES,
        marks=MARKS,
        marker_ids={key: f"marker-{place}" for place, key in enumerate(look)},
        common=ready.common,
        shape=ready.place,
        has_numbers=bool(ready.cases),
        sources=_sources(ready),
        doubts=findings.warnings(tables, ready.rows, ready.labels),
        failures=_first(tables, findings.failure_table(tables.certificates, ready.rows, ready.labels)),
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
        **_peaks(ready.counted),
        **_pictures(ready, found, look),
    )  # fmt: skip


def contents(body: str) -> list[tuple[str, Markup]]:
    """The identifiers and headings of the sections of a page, as they stand in its source."""
    return [(name, Markup(title)) for name, title in re.findall(r'<section id="([\w-]+)">\s*<h2>(.*?)</h2>', body)]


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
    at_shape, written, counted, every = ready.at_shape, ready.written, ready.counted, ready.listed
    formulas = against_theory.Formulas(ready.tables.complexity)
    summary = measurements.summary(ready, found)
    first, rest = first_screen.split(summary, found) if summary else (None, None)
    plain = "Time and memory of each phase"
    return {
        "reference": found.reference.label if found.reference else None,
        "is_yardstick": found.reference is not None and found.reference.method == "standard",
        "excluded": excluded(found),
        "unproven": unproven(found),
        "compared": compared(found),
        "summary": first,
        "more_summary": rest,
        "numbers": measurements.plain_numbers(at_shape, f"{plain}{_at(ready)}", with_shape=False),
        "all_numbers": _all(ready, measurements.plain_numbers(every, f"{plain}, all cases", with_shape=True)),
        "macs": against_theory.macs(written.at_shape, formulas, "Multiply-accumulates of a training forward pass"),
        "all_macs": _all(written, against_theory.macs(written.listed, formulas, "Multiply-accumulates, all cases")),
        "elements": against_theory.elements(counted.at_shape, formulas, "Elements kept for the backward pass"),
        "all_elements": _all(counted, against_theory.elements(counted.listed, formulas, "Elements kept, all cases")),
        "fitted": [table for quantity in ("macs", "memory") if (table := agreement.formulas(ready, formulas, quantity))],
        "held": _partly(ready, measurements.held(every)),
        "exponents": against_theory.exponents(ready),
        "half_precision": _partly(ready, pairs.half_precision(every)),
        "exports": _partly(ready, pairs.exports(every)),
        "compiled": compilation.changes(at_shape),
        "all_compiled": _all(ready, compilation.changes(every)),
        "recomputed": recomputation.changes(at_shape),
        "all_recomputed": _all(ready, recomputation.changes(every)),
        "forms": forms.tables(ready),
        "has_base": not ready.tables.changes.empty,
        "changed": ready.tables.changed,
        "changes": changed.changes(ready, every=False),
        "all_changes": _partly(ready, changed.changes(every, every=True)),
        "shares": measurements.shares(at_shape),
        "all_shares": _all(ready, measurements.shares(every)),
        "epochs": measurements.epochs(written),
    }


def _at(ready: Prepared) -> str:
    return f" at {ready.place}" if ready.place else ""


def _all(ready: Prepared, table: Table | None) -> Table | None:
    """A table of all cases, which is shown beside one at the reference shape where there are several shapes."""
    return _partly(ready, table) if ready.has_several_shapes else None


def _partly(ready: Prepared, table: Table | None) -> Table | None:
    """A table of the listed cases, with a note if these are not all."""
    left = ready.rows["shape"].nunique() - ready.listed.rows["shape"].nunique()
    if table is None or not left:
        return table
    every = ready.rows["shape"].nunique()
    note = f"Listed are {every - left} of {every} shapes, evenly spaced over the run. {_export(ready.tables)}"
    return replace(table, notes=[*table.notes, note])


def _first(tables: Tables, table: Table | None) -> Table | None:
    """The first rows of a table that may have very many."""
    if table is None or len(table.rows) <= MOST_ENTRIES:
        return table
    note = f"Listed are the first {MOST_ENTRIES} of {len(table.rows)} entries. {_export(tables)}"
    return replace(table, rows=table.rows[:MOST_ENTRIES], notes=[*table.notes, note])


def _export(tables: Tables) -> str:
    run = as_text(tables.run.get("out"))
    return f"All of them: lipbench export {shlex.quote(run) if run else '<run directory>'} -o all.csv."


def _proofs(written: Prepared, found: Costs) -> dict[str, object]:
    """The tables of certificates, and those that compare ways to find one number.

    They show cases as written only: compiling and recomputation change neither the function nor its certificate.
    """
    at_shape, every = written.at_shape, written.listed
    return {
        "iterations": against_theory.iterations(written),
        "padded": any("<mi>n</mi>" in as_text(formula) for formula in written.tables.fitted.get("fitted_mathml", ())),
        "shrinking": certificates.shrinking(written),
        "constants": _partly(written, certificates.quoted_table(every, found.yardsticks)),
        "bounds": _partly(written, certificates.bounds_table(every)),
        "yardsticks": [one.label for one in found.series if one.key in found.yardsticks],
        "counts": agreement.counts(at_shape),
        "all_counts": _all(written, agreement.counts(every)),
    }


def _peaks(counted: Prepared) -> dict[str, object]:
    """The tables of predicted beside measured peaks. They show no compiled cases: memory is predicted for uncompiled code."""
    return {
        "peaks": agreement.peaks(counted.at_shape, "Peaks of memory"),
        "all_peaks": _all(counted, agreement.peaks(counted.listed, "Peaks of memory, all cases")),
    }


def _pictures(ready: Prepared, found: Costs, look: Mapping[str, Look]) -> dict[str, object]:
    scored = measurements.scores(ready, found)
    drawn = radar.radars(scored[1], ready.labels, look) if scored else []
    shown = {key for key, _ in drawn}
    plots = [(plot, panels) for plot in figures.PLOTS if (panels := figures.panels(plot, ready, look)).shown]
    in_plots = {key for _, panels in plots for panel in panels.shown for key in panel.series}
    return {
        "plots": plots,
        "plotted": [key for key in look if key in in_plots],
        "scores": scored[0] if scored else None,
        "radar": radar.overlay(scored[1], ready.labels, look) if scored else None,
        "radars": drawn,
        "radar_absent": [
            one.label for one in found.series if drawn and one.key not in shown and one.key not in found.yardsticks
        ],
        "labels": ready.labels,
        "limits_reached": limits.section(ready.written, look),
    }
