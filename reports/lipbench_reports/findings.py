"""Failures with their reasons, and warnings with their remedies."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from lipbench_reports.cells import Cell, Column, Table
from lipbench_reports.certificates import HOW
from lipbench_reports.tables import (
    CERTIFICATES,
    LIPSCHITZ_TOLERANCE,
    LOWER_BOUND,
    WARNINGS,
    Tables,
    as_text,
    as_texts,
    certificate_fails,
    failures,
    number,
    with_columns,
)  # fmt: skip

STATUS_WORDS = {
    "out_of_memory": "out of memory", "timeout": "time-out", "crashed": "crashed", "raised": "raised an error",
    "nan": "not finite", "not_lipschitz": "not 1-Lipschitz", "unsupported": "not supported", "skipped": "skipped",
}  # fmt: skip


@dataclass(frozen=True)
class Doubt:
    """One kind of warning: its title, the numbers it concerns, and what to do."""

    title: str
    where: tuple[str, ...]
    cure: str

    @property
    def name(self) -> str:
        """The title up to its colon."""
        return self.title.partition(":")[0]


def failure_table(bounds: pd.DataFrame, rows: pd.DataFrame, labels: Mapping[str, str]) -> Table | None:
    """All failures of cases or parts of them, each with its recorded reason; None if there are none.

    The reason of a case that is not 1-Lipschitz is the constant in `bounds` that shows it, worded as in the certificate tables.
    """
    failed, violations = failures(rows), _violations(bounds)
    if failed.empty:
        return None
    names = ("Method", "Case", "What failed", "What happened", "Reason")
    columns = [Column(name, numeric=False) for name in names]
    cells = [
        [
            Cell(labels[key], labels[key], series=key),
            Cell(shape, float(place)),
            Cell(phases or "the case", phases),
            Cell(STATUS_WORDS.get(status, status), status),
            Cell((violations.get(case) if status == "not_lipschitz" else "") or reason or "none was recorded", reason),
        ]
        for place, (key, shape, phases, status, reason, case) in enumerate(
            failed[["series", "shape", "failed", "status", "reason", "case"]].itertuples(index=False, name=None)
        )
    ]
    return Table(columns, cells, "Cases that failed, as a whole or in part")


def _violations(bounds: pd.DataFrame) -> dict[str, str]:
    """Case → its first bound in evaluation mode that shows a violation, as text."""
    data = with_columns(bounds, CERTIFICATES)
    data["largest"] = pd.to_numeric(data["largest"], errors="coerce")
    fails = [certificate_fails(*pair) for pair in zip(data["largest"], data["kind"])]
    found = data[(data["mode"] == "evaluation") & pd.Series(fails, index=data.index, dtype=bool)].drop_duplicates("case")
    return {
        case: f"Lipschitz constant {'≥' if kind == LOWER_BOUND else '='} {largest:.6f} in evaluation, "
        f"found by {HOW.get(how, how)} at image size {number(size)}; 1 + {LIPSCHITZ_TOLERANCE:g} is allowed"
        for case, largest, kind, how, size in zip(*(found[name] for name in ("case", "largest", "kind", "how", "image_size")))
    }


NO_CERTIFICATE = "no_certificate"
OWN_ENTRY = (NO_CERTIFICATE, "interpreted", "contended", "unsettled", "one_process")
"""Kinds of recorded warnings that have an entry of their own, which is made from the rows."""


def warnings(tables: Tables, rows: pd.DataFrame, labels: Mapping[str, str]) -> list[Doubt]:
    """All warnings about the run, worst first."""
    timed = rows[rows["median_s"].notna()]

    def touched(chosen: pd.Series, with_file: bool = False) -> tuple[str, ...]:
        found = timed[chosen]
        cases = found.groupby(["series", "shape", "case"], sort=False)["phase"].agg(
            lambda names: ", ".join(dict.fromkeys(names))
        )
        return tuple(
            f"{labels[str(key)]}, {shape}: {names}" + (f" (records/{case}.json)" if with_file and case else "")
            for (key, shape, case), names in zip(cases.index.to_list(), cases)
        )

    found = [
        Doubt("Parts of the run could not be read", as_texts(tables.run.get("problems")),
              "Profile the missing cases again with --resume."),
        Doubt("Not run yet", as_texts(tables.run.get("unfinished")), _resumed(tables, "Resume the run")),
        Doubt("Contended: other processes used the machine in every round. Marked and not ranked",
              touched(timed["contended"], with_file=True),
              _resumed(tables, "Stop other programs, and repeat the rounds by --retry-contended")),
        Doubt("Contention was not watched. Shown and not ranked", touched(timed["unwatched"]),
              "Profile with lipbench profile, which watches the machine and repeats every case in several processes."),
        Doubt("One process: the variation between processes, usually larger than within one, is unknown",
              touched((timed["rounds"] == 1) & (_rounds(tables) == 1)), "Use --rounds 2 or more."),
        Doubt("Interpreted: Triton kernels ran in Triton's interpreter, on the CPU. Marked, not ranked and not in the figures",
              touched(timed["interpreted"]), "Measure on a GPU, without TRITON_INTERPRET."),
        Doubt("Not converged: the 95 % interval over rounds is wider than ±5 %",
              touched(~timed["converged"] & ~timed["unwatched"] & (timed["rounds"] > 1)),
              "Keep the machine idle, fix the clock frequency, and use more rounds, by --rounds."),
        Doubt("No certificate: not known to be 1-Lipschitz. Not ranked", _untried(tables.warnings, rows, labels),
              "For cases that were not certified yet, run lipbench profile; otherwise the line says what to do."),
        Doubt("Only a lower bound: samples and ascent found no violation, but there may be one",
              _sampled(rows, labels), "Prove a bound for the layer; measurements cannot."),
        Doubt("Operations without a formula: their multiply-accumulates are not counted", _uncounted(rows, labels),
              "Treat the counts of these cases as lower bounds."),
        Doubt("Launch-bound: the host took about as long to launch the work as the GPU took to do it, or longer",
              touched(timed["launch_bound"]),
              "Use a larger batch or CUDA graphs; these times depend more on Python than on the layer."),
        Doubt("Warnings of the run", as_texts(tables.run.get("warnings")), "See each line."),
        Doubt("Other recorded warnings", tuple(_recorded(tables.warnings, rows, labels)), "Each line says what to do."),
    ]  # fmt: skip
    return [one for one in found if one.where]


def _resumed(tables: Tables, deed: str) -> str:
    """What to do, and the command that resumes the run directory."""
    out = as_text(tables.run.get("out"))
    return f"{deed}: lipbench profile --resume --out {shlex.quote(out) if out else '<run directory>'}"


def _rounds(tables: Tables) -> int:
    """The number of processes planned for each case; 1 where it is unknown."""
    limits = tables.run.get("limits")
    wanted = limits.get("rounds") if isinstance(limits, Mapping) else None
    return wanted if isinstance(wanted, int) else 1


def _untried(warnings: pd.DataFrame, rows: pd.DataFrame, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Cases that gave numbers and have no certificate, each with the reason that was recorded."""
    told = with_columns(warnings, WARNINGS)
    told = told[told["kind"] == NO_CERTIFICATE].drop_duplicates("case")
    reasons = dict(zip(told["case"], told["text"]))
    cases = rows[(rows["phase"] != "") & rows["certificate"].isna()].drop_duplicates(["series", "shape"])
    return tuple(
        f"{labels[key]}, {shape}: {reasons.get(case, 'not certified')}"
        for key, shape, case in zip(cases["series"], cases["shape"], cases["case"])
    )


def _sampled(rows: pd.DataFrame, labels: Mapping[str, str]) -> tuple[str, ...]:
    bounded = rows[(rows["phase"] != "") & (rows["certificate_kind"] == LOWER_BOUND)].drop_duplicates(["series", "shape"])
    return tuple(f"{labels[key]}, {shape}" for key, shape in zip(bounded["series"], bounded["shape"]))


def _uncounted(rows: pd.DataFrame, labels: Mapping[str, str]) -> tuple[str, ...]:
    missed = rows[rows["macs_unsupported"] != ""].drop_duplicates(["series", "shape"])
    cases = zip(missed["series"], missed["shape"], missed["macs_unsupported"])
    return tuple(f"{labels[key]}, {shape}: {names}" for key, shape, names in cases)


def _recorded(warnings: pd.DataFrame, rows: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Recorded warnings without an entry of their own: each text once, with its cases."""
    told = with_columns(warnings, WARNINGS)
    told = told[~told["kind"].isin(OWN_ENTRY)]
    texts = {str(case): list(found) for case, found in told.groupby("case", sort=False)["text"]}
    cases = rows.drop_duplicates("case")
    where: dict[str, dict[str, None]] = {}
    for key, shape, case in zip(cases["series"], cases["shape"], cases["case"]):
        for text in texts.get(case, ()):
            where.setdefault(text, {})[f"{labels[key]} ({shape})"] = None
    return [f"{text}: {', '.join(found)}" for text, found in where.items()]
