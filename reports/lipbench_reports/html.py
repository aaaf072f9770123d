"""The report: one HTML document that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lipbench_reports import against_theory, agreement, certificates, compilation, figures, findings, measurements, provenance
from lipbench_reports.cells import MARKS, TIMES, with_unit
from lipbench_reports.costs import ALIKE, Costs, costs
from lipbench_reports.look import DARK, LIGHT, looks
from lipbench_reports.tables import (
    Tables,
    as_text,
    as_written,
    common_conditions,
    failed_cases,
    network_title,
    prepare,
    reference_shape,
    series_of,
    with_columns,
)  # fmt: skip
from lipbench_reports.verdict import cases, excluded, listing, unfinished, unproven, verdict

ENVIRONMENT = Environment(
    loader=PackageLoader("lipbench_reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(tables: Tables) -> str:
    """The whole document. Never fails because a run is odd: what is missing is left out, and said where it matters."""
    rows = prepare(tables.rows)
    methods = with_columns(tables.methods, ["method", "title", "source", "lipschitz", "orthogonal", "iterations"])
    rows = certificates.orthogonal_only(rows, methods, "certificate_smallest")
    found = costs(rows, methods)
    series = series_of(rows, methods)
    labels = {one.key: one.label for one in series}
    place = {key: number for number, key in enumerate(labels)}
    rows = rows.sort_values("series", key=lambda keys: keys.map(place), kind="stable", ignore_index=True)
    look = looks(series, [str(name) for name in methods["method"]])
    script = _source("sort.js")
    return ENVIRONMENT.get_template("report.html").render(
        title=tables.title,
        verdict=[*verdict(tables, rows, found, labels), *compilation.verdict(rows, labels)],
        style=Markup(_source("style.css")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        light=list(enumerate(LIGHT)),
        dark=list(enumerate(DARK)),
        looks=look,
        marks=MARKS,
        marker_ids={key: f"marker-{place}" for place, key in enumerate(look)},
        common=common_conditions(rows),
        shape=_place(rows),
        shapes=list(dict.fromkeys(rows.loc[rows["phase"] != "", "shape"])),
        sources=[(title, source) for title, source, name in zip(methods["title"], methods["source"], methods["method"])
                 if name in set(rows["method"]) and as_text(source)],
        doubts=findings.warnings(tables, rows, labels),
        failures=findings.failure_table(rows, labels),
        failed=len(failed_cases(rows)),
        unfinished=cases(unfinished(tables)[0]) if unfinished(tables)[0] else "",
        machine=provenance.machine(tables.run.get("machine")),
        command=provenance.command(tables.run),
        measured=provenance.measured(tables.run, bool((rows["device"] == "cuda").any())),
        provenance=provenance.origin(tables.run),
        limits=provenance.pairs(tables.run.get("limits")),
        clock=with_unit(rows["timer_cost_s"].max(), TIMES) if rows["timer_cost_s"].notna().any() else "",
        alike=f"{100 * ALIKE:.0f}\u00a0%",
        **_results(tables, rows, found, labels),
        **_proofs(tables, rows, found, labels),
        **_pictures(rows, found, labels, look),
    )  # fmt: skip


def _source(name: str) -> str:
    assert ENVIRONMENT.loader is not None
    return ENVIRONMENT.loader.get_source(ENVIRONMENT, name)[0].strip()


def _results(tables: Tables, rows: pd.DataFrame, found: Costs, labels: Mapping[str, str]) -> dict[str, object]:
    """The tables. What is shown at one shape is repeated for all shapes further down, if there are more."""
    shape = reference_shape(rows)
    at_shape = rows[rows["shape"] == shape]
    several = rows["shape"].nunique() > 1
    written, written_at_shape = as_written(rows), as_written(at_shape)
    formulas = against_theory.Formulas(tables.complexity)
    return {
        "reference": found.reference.label if found.reference else None,
        "is_yardstick": found.reference is not None and found.reference.method == "standard",
        "excluded": excluded(found),
        "unproven": unproven(found),
        "compared": _compared(found),
        "summary": measurements.summary(rows, found, labels),
        "numbers": measurements.plain_numbers(at_shape, labels, "Measured", with_shape=False),
        "all_numbers": measurements.plain_numbers(rows, labels, "All measurements", with_shape=True) if several else None,
        "macs": against_theory.macs(written_at_shape, formulas, labels, "Multiply-accumulates of a training forward pass"),
        "all_macs": against_theory.macs(written, formulas, labels, "Multiply-accumulates, all cases") if several else None,
        "elements": against_theory.elements(written_at_shape, formulas, labels, "Elements kept for the backward pass"),
        "all_elements": against_theory.elements(written, formulas, labels, "Elements kept, all cases") if several else None,
        "held": measurements.held(rows, labels),
        "exponents": against_theory.exponents(tables.exponents, rows, labels),
        "compiled": compilation.changes(at_shape, labels),
        "all_compiled": compilation.changes(rows, labels) if several else None,
        "shares": measurements.shares(at_shape, labels),
        "all_shares": measurements.shares(rows, labels) if several else None,
        "epochs": measurements.epochs(written, tables.published, labels),
    }


def _compared(found: Costs) -> list[tuple[str, str]]:
    """The shapes that methods are ranked over, and by what; measures with the same shapes together."""
    by_shapes: dict[str, list[str]] = {}
    for title, comparison in found.comparisons.items():
        if comparison.ranked:
            by_shapes.setdefault("; ".join(comparison.shapes), []).append(title)
    return [("" if len(by_shapes) == 1 else listing(titles), shapes) for shapes, titles in by_shapes.items()]


def _iterations(methods: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The inner iterations of the methods of this run: "LOT: t = 10; SOC: t₁ = 5, t₂ = 1"."""
    here = set(rows["method"])
    named = zip(methods["method"], methods["title"], methods["iterations"])
    return "; ".join(f"{title}: {re.sub(r't([12])', _lowered, as_text(text))}" for name, title, text in named
                     if name in here and as_text(text))  # fmt: skip


def _lowered(found: re.Match[str]) -> str:
    return "t" + "₁₂"[int(found[1]) - 1]


def _proofs(tables: Tables, rows: pd.DataFrame, found: Costs, labels: Mapping[str, str]) -> dict[str, object]:
    """The tables in which several ways lead to one number, and whether the promise is kept.

    All of what is not compiled: compiling changes neither the function nor its counts, and leaves the prediction behind.
    """
    rows = as_written(rows)
    at_shape = rows[rows["shape"] == reference_shape(rows)]
    several = rows["shape"].nunique() > 1
    formulas = against_theory.Formulas(tables.complexity)
    bounds = certificates.prepare(tables.certificates, rows)
    bounds = certificates.orthogonal_only(bounds, tables.methods, "smallest")
    place = {key: number for number, key in enumerate(labels)}
    bounds = bounds.sort_values("series", key=lambda keys: keys.map(place), kind="stable", ignore_index=True)
    return {
        "iterations": _iterations(with_columns(tables.methods, ["method", "title", "iterations"]), rows),
        "padded": any("<mi>n</mi>" in as_text(formula) for formula in tables.fitted.get("fitted_mathml", ())),
        "shrinking": certificates.shrinking(bounds, labels),
        "constants": certificates.quoted_table(bounds, labels, found.yardsticks),
        "bounds": certificates.bounds_table(bounds, labels),
        "yardsticks": [one.label for one in found.series if one.key in found.yardsticks],
        "counts": agreement.counts(at_shape, labels),
        "all_counts": agreement.counts(rows, labels) if several else None,
        "fitted": [
            table for quantity in ("macs", "memory") if (table := agreement.formulas(tables.fitted, formulas, quantity, labels))
        ],
        "peaks": agreement.peaks(at_shape, tables.predicted, labels, "Peaks of memory"),
        "all_peaks": agreement.peaks(rows, tables.predicted, labels, "Peaks of memory, all cases") if several else None,
    }


def _pictures(rows: pd.DataFrame, found: Costs, labels: Mapping[str, str], look: Mapping[str, Any]) -> dict[str, object]:
    scored = measurements.scores(found, labels)
    drawn = figures.radars(scored[1], labels, look) if scored else []
    shown = {key for key, _ in drawn}
    return {
        "plots": [(plot, panels) for plot in figures.PLOTS if (panels := figures.panels(plot, rows, labels, look))],
        "scores": scored[0] if scored else None,
        "radars": drawn,
        "radar_absent": [
            one.label for one in found.series if drawn and one.key not in shown and one.key not in found.yardsticks
        ],
        "labels": labels,
    }


def _place(rows: pd.DataFrame) -> str | None:
    """The reference shape in words, without what all cases share."""
    shape = reference_shape(rows)
    if shape is None:
        return None
    at_shape = rows[rows["shape"] == shape]
    shared = set(common_conditions(rows).split(", "))
    parts = common_conditions(at_shape).split(", ")
    network = str(at_shape["network"].iloc[0])
    own = [part for part in parts if part not in shared or part.endswith(" channels")]
    return ", ".join([*([network_title(network)] if network else []), *own])
