"""The table of all forms of all methods, their ranks, and the sentences on how a ranking changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lipbench_reports import forms
from lipbench_reports.brief import brief
from lipbench_reports.html import render
from report_frames import Page, quick, ready, tables

WIDTHS = (16, 32)
TIMES = {
    "paper": {"standard": 1.0, "aol": 2.0, "soc": 3.0, "lot": 8.0},
    "lean": {"aol": 2.0, "soc": 1.5, "lot": 4.0},
}  # fmt: skip
"""seconds of a training step, the same at all widths"""


def measured(times: dict[str, dict[str, float]] = TIMES, noise: float = 1e-3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and rounds of these methods and forms; "lean recomputed" is the form lean, recomputed."""
    rows, rounds, rng = [], [], np.random.default_rng(0)
    written = quick()
    for form, seconds in times.items():
        implementation, _, recomputed = form.partition(" ")
        for method, value in seconds.items():
            own = written[(written["method"] == method) & written["channels"].isin(WIDTHS)].copy()
            own["case"] += f"-{form}"
            own = own.assign(implementation=implementation, recomputed=bool(recomputed), certificate=1.0, contended=False)
            own.loc[own["phase"] == "step", "median_s"] = value
            rows.append(own)
            rounds += [
                {"case": case, "phase": "step", "round": place, "median_s": value * np.exp(noise * rng.normal()), "quiet": True}
                for case in own["case"].unique() for place in range(5)
            ]  # fmt: skip
    return pd.concat(rows, ignore_index=True), pd.DataFrame(rounds)


def prepared(times: dict[str, dict[str, float]] = TIMES, noise: float = 1e-3) -> forms.Prepared:
    rows, rounds = measured(times, noise)
    return ready(rows, rounds=rounds)


def test_every_form_is_relative_to_the_same_reference_and_ranked_for_itself() -> None:
    step, *_ = forms.tables(prepared())
    assert step.caption == "Training step in each form, relative to Standard as written"
    assert [column.title for column in step.columns] == ["Method", "paper", "lean"]
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in step.rows}
    assert shown == {"AOL": ["2.00×", "2.00×"], "SOC": ["3.00×", "1.50×"], "LOT": ["8.00×", "4.00×"]}
    ranks = {row[0].text: [cell.note.rpartition("rank ")[2] for cell in row[1:]] for row in step.rows}
    assert ranks == {"AOL": ["1", "2"], "SOC": ["2", "1"], "LOT": ["3", "3"]}


def test_the_sentence_names_who_passes_whom() -> None:
    (said,) = forms.verdict(prepared())
    assert said == "Ranked by training step as lean in place of paper: SOC passes AOL, of 3 pairs told apart in both."
    again = {**TIMES, "lean recomputed": TIMES["paper"] | {"standard": 1.3}}
    told = forms.verdict(prepared(again))
    assert told[1:] == [
        "Ranked by training step as lean · recomputed in place of paper: no method passes another, of 3 pairs told apart in "
        "both."
    ]


def test_rankings_over_other_shapes_are_not_compared() -> None:
    rows, rounds = measured()
    fewer = rows[(rows["implementation"] == "paper") | (rows["channels"] == WIDTHS[0])]
    found = ready(fewer, rounds=rounds)
    assert len(forms.forms(found)) == 2
    assert forms.verdict(found) == []


def test_what_rounds_cannot_tell_apart_is_no_change() -> None:
    found = prepared(noise=1.0)
    assert forms.verdict(found) == []
    step, *_ = forms.tables(found)
    ranks = {cell.note.rpartition("rank ")[2] for row in step.rows for cell in row[1:]}
    assert all("–" in rank for rank in ranks), "no method has a rank of its own"


@pytest.mark.parametrize("left", [{"paper": TIMES["paper"]}, {"paper": {"aol": 1.0}, "lean": {"aol": 1.0}}])
def test_one_form_or_no_reference_is_no_table(left: dict[str, dict[str, float]]) -> None:
    assert forms.tables(prepared(left)) == []
    assert forms.verdict(prepared(left)) == []


def test_the_report_and_the_answer_have_it() -> None:
    rows, rounds = measured()
    given = tables(rows, rounds=rounds)
    page = Page(render(given)).text
    assert "Methods in each form, and how their ranking changes" in page
    assert page.count("SOC passes AOL") == 1
    assert any("SOC passes AOL" in line for line in brief(given).remarks)
    assert "in each form" not in Page(render(tables(quick()))).text
