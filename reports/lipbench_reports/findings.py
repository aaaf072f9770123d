"""What a reader must doubt: failures with reasons, and warnings with their cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from lipbench_reports.cells import Cell, Column, Table
from lipbench_reports.tables import LOWER_BOUND, Tables, as_texts, failures

SPREAD_LIMIT = 0.10
"""Largest difference between the rounds of one case that passes without a warning."""

STATUS_WORDS = {
    "out_of_memory": "out of memory", "timeout": "time-out", "crashed": "crashed", "raised": "raised an error",
    "nan": "not finite", "not_lipschitz": "not 1-Lipschitz", "unsupported": "not supported", "skipped": "skipped",
}  # fmt: skip


@dataclass(frozen=True)
class Doubt:
    """One kind of doubt: how many numbers it touches, which, and what to do."""

    title: str
    where: tuple[str, ...]
    cure: str


def failure_table(rows: pd.DataFrame, labels: Mapping[str, str]) -> Table | None:
    """All cases that gave no numbers, with the reason as it was recorded; None if there are none."""
    failed = failures(rows)
    if failed.empty:
        return None
    columns = [Column("Method", numeric=False), Column("Case", numeric=False), Column("What happened", numeric=False),
               Column("Reason", numeric=False)]  # fmt: skip
    cells = [
        [
            Cell(labels[key], labels[key], series=key),
            Cell(shape, float(place)),
            Cell(STATUS_WORDS.get(status, status), status),
            Cell(reason or "none was recorded", reason),
        ]
        for place, (key, shape, status, reason) in enumerate(
            zip(failed["series"], failed["shape"], failed["status"], failed["reason"])
        )
    ]
    return Table(columns, cells, "Cases without numbers")


def warnings(tables: Tables, rows: pd.DataFrame, labels: Mapping[str, str]) -> list[Doubt]:
    """All doubts about the run, worst first."""
    timed = rows[rows["median_s"].notna()]

    def touched(chosen: pd.Series) -> tuple[str, ...]:
        found = timed[chosen]
        phases = found.groupby(["series", "shape"], sort=False)["phase"].agg(lambda names: ", ".join(dict.fromkeys(names)))
        return tuple(f"{labels[str(key)]}, {shape}: {names}" for (key, shape), names in zip(phases.index.to_list(), phases))

    found = [
        Doubt("Parts of the run could not be read", as_texts(tables.run.get("problems")),
              "Profile the missing cases again with --resume."),
        Doubt("Contended: other processes used the machine while these were timed. Marked, and not ranked",
              touched(timed["contended"]), "Stop what else runs, then delete these records and profile again with --resume."),
        Doubt("Interpreted: Triton kernels ran in their interpreter, on the CPU. Marked, in no ranking and no figure",
              touched(timed["interpreted"]), "Measure on a GPU, without TRITON_INTERPRET."),
        Doubt(f"Rounds differ by more than {100 * SPREAD_LIMIT:.0f} %", touched(timed["round_spread"] > SPREAD_LIMIT),
              "Fix the clock frequency, keep the machine idle, and use more rounds."),
        Doubt("Not converged: at the time limit the median was not yet known to ±2 %", touched(~timed["converged"]),
              "Give each phase more time."),
        Doubt("No certificate: nobody looked whether these are 1-Lipschitz", _untried(rows, labels),
              "Profile these cases again with this version."),
        Doubt("Only a lower bound: samples and ascent found no violation, which does not exclude one",
              _sampled(rows, labels), "Prove a bound for the layer; no measurement can."),
        Doubt("Operations without a formula: their multiply-accumulates are in no count", _uncounted(rows, labels),
              "Take the counts of these cases for lower bounds."),
        Doubt("Launch-bound: the host took longer to launch the work than the GPU to do it", touched(timed["launch_bound"]),
              "Use a larger batch, or CUDA graphs; the number says more about Python than about the layer."),
        Doubt("Recorded with the run", as_texts(tables.run.get("warnings")), "See each line."),
        Doubt("In the words of the records", tuple(_recorded(rows, labels)),
              "Each line says what to do; it may repeat what stands above."),
    ]  # fmt: skip
    return [one for one in found if one.where]


def _untried(rows: pd.DataFrame, labels: Mapping[str, str]) -> tuple[str, ...]:
    cases = rows[(rows["phase"] != "") & rows["certificate"].isna()].drop_duplicates(["series", "shape"])
    return tuple(f"{labels[key]}, {shape}" for key, shape in zip(cases["series"], cases["shape"]))


def _sampled(rows: pd.DataFrame, labels: Mapping[str, str]) -> tuple[str, ...]:
    bounded = rows[(rows["phase"] != "") & (rows["certificate_kind"] == LOWER_BOUND)].drop_duplicates(["series", "shape"])
    return tuple(f"{labels[key]}, {shape}" for key, shape in zip(bounded["series"], bounded["shape"]))


def _uncounted(rows: pd.DataFrame, labels: Mapping[str, str]) -> tuple[str, ...]:
    missed = rows[rows["macs_unsupported"] != ""].drop_duplicates(["series", "shape"])
    cases = zip(missed["series"], missed["shape"], missed["macs_unsupported"])
    return tuple(f"{labels[key]}, {shape}: {names}" for key, shape, names in cases)


def _recorded(rows: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Warnings of the records, each text once with the cases that it was recorded for."""
    cases: dict[str, dict[str, None]] = {}
    for key, shape, texts in zip(rows["series"], rows["shape"], rows["warnings"]):
        for text in texts:
            cases.setdefault(text, {})[f"{labels[key]} ({shape})"] = None
    return [f"{text}: {', '.join(found)}" for text, found in cases.items()]
