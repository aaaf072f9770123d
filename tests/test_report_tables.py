"""What tables of a report say and how: units that can be compared, doubts in words, what is folded away."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lipbench_reports import against_theory, agreement, compilation, measurements
from lipbench_reports.cells import Table, digits
from lipbench_reports.html import render
from report_frames import Page, complexity, exponents, fitted, predicted, quick, ready, tables, words

from lipbench import quantities


def few(**changed: Any) -> pd.DataFrame:
    return quick().query("method in ('standard', 'aol')").reset_index(drop=True).assign(**changed)


def units(table: Table | None, *titles: str) -> set[str]:
    assert table is not None
    found = [column.unit for column in table.columns if column.title.replace("\xa0", " ") in titles]
    assert len(found) == len(titles)
    return set(found)


def test_what_is_to_be_compared_has_one_unit() -> None:
    rows = few(published_macs=1e3, published_convention_macs=1e12)
    rows.loc[rows["phase"] == "inference", ["median_s", "peak_memory_bytes"]] = [3e-6, 20.0]
    found = ready(rows, predicted=predicted(few()))
    formulas = against_theory.Formulas(complexity())
    counted = ("Table 1, number", "Exact, number", "Counted")
    assert len(units(against_theory.macs(found, formulas, ""), *counted)) == 1
    halves = ("Counted, input half", "Counted, parameter half")
    assert len(units(against_theory.elements(found, formulas, ""), *counted, *halves)) == 1
    sums = ("PyTorch’s counter", "fvcore", "Closed form", "Counted as the paper does", "Table 1, leading terms")
    assert len(units(agreement.counts(found), *sums)) == 1
    both = [f"{phase}, {what}" for phase in ("Training step", "Inference") for what in ("predicted", "measured")]
    assert len(units(agreement.peaks(found, ""), *both)) == 1
    plain = measurements.plain_numbers(found, "", with_shape=True)
    assert len(units(plain, "Forward", "Backward", "Training step", "Inference", "First inference")) == 1
    assert len(units(plain, "Training peak", "Inference peak", "Saved for backward", "Parameters")) == 1
    shares = measurements.shares(found)
    assert len(units(shares, "Time, parameter half", "Time, input half")) == 1
    assert len(units(shares, "Saved, parameter half", "Saved, input half")) == 1


def test_what_holds_memory_is_shown_in_one_unit_with_the_peaks_of_each_phase() -> None:
    rows = few(reserved_memory_bytes=np.nan)
    table = measurements.held(ready(rows))
    assert table is not None
    held = ("Parameters", "Buffers", "Gradients", "Optimizer state", "Input", "Output", "Saved for backward",
            "Peak, forward", "Peak, backward", "Peak, training step")  # fmt: skip
    assert [column.title for column in table.columns] == ["Method", "Case", *held], "nothing of CUDA"
    assert len(units(table, *held)) == 1
    place = [column.title for column in table.columns].index("Peak, backward")
    backward = rows[rows["phase"] == "backward"]["peak_memory_bytes"]
    assert [row[place].sort for row in table.rows] == list(backward)
    assert measurements.held(ready(rows.assign(phase=""))) is None
    assert not any("Workspaces" in note for note in table.notes)
    of_cuda = {"reserved_memory_bytes": 2**21, "process_memory_bytes": 2**29, "workspace_bytes": 2**26}
    on_cuda = measurements.held(ready(rows.assign(**of_cuda)))
    assert on_cuda is not None
    titles = [column.title for column in on_cuda.columns]
    assert {"Reserved", "Process", "cuBLAS workspaces"} <= set(titles)
    assert {row[titles.index("cuBLAS workspaces")].sort for row in on_cuda.rows} == {2**26}
    assert any("Workspaces" in note for note in on_cuda.notes)


def test_the_cost_of_the_clock_is_said() -> None:
    assert "Reading the clock took up to 0.200 µs a sample" in words(few().assign(timer_cost_s=2e-7))
    assert "Reading the clock" not in words(few().assign(timer_cost_s=np.nan))


@pytest.mark.parametrize(
    ("value", "text"), [(1.234e-5, "0.0000123"), (4.2e-7, "4\u202f·\u202f10⁻⁷"), (-4.2e-7, "−4\u202f·\u202f10⁻⁷")]
)
def test_what_is_small_in_the_unit_of_its_group_keeps_a_digit(value: float, text: str) -> None:
    assert digits(value) == text


def test_contended_times_mark_all_that_is_derived_from_them_and_a_note_explains() -> None:
    found = ready(few(contended=True))
    plain = measurements.plain_numbers(found, "", with_shape=True)
    shares = measurements.shares(found)
    assert plain is not None
    assert shares is not None
    marked = {table.columns[place].title for table in (plain, shares) for place in range(len(table.columns))
              if all(row[place].mark == "contended" for row in table.rows if row[place].sort is not None)}  # fmt: skip
    assert marked >= {"Forward", "Throughput", "Time, input half", "Parameter share of time"}
    assert "Training peak" not in marked
    assert plain.legend == [("†", "contended: other processes used the machine, not ranked")]
    document = words(few(contended=True))
    assert document.count("† contended: other processes used the machine, not ranked.") >= 3, "below each table that has one"
    assert "† contended" not in words(few())


def test_counted_quantities_have_no_interval_and_times_have() -> None:
    given = ready(few(), exponents=exponents().query("method == 'aol'"))
    found = {table.caption: [column.title for column in table.columns]
             for table, _ in against_theory.exponents(given)}  # fmt: skip
    assert found == {
        "Time, forward (6 points)": ["Method", "Fitted", "95 % interval", "Exact", "Table\xa01"],
        "Multiply-accumulates, forward (6 points)": ["Method", "Fitted", "Local slopes", "Exact", "Table\xa01"],
        "Saved for backward (6 points)": ["Method", "Fitted", "Local slopes", "Exact", "Table\xa01"],
    }


@pytest.mark.parametrize(
    ("quantity", "caption"),
    [("time: step", "Time, training step"), ("time: parametrize", "Time, parameter half"),
     ("peak memory: step", "Training peak")],
)  # fmt: skip
def test_exponents_are_captioned_as_the_other_tables_are(quantity: str, caption: str) -> None:
    frame = exponents().head(1).assign(quantity=quantity, exponent=-0.001)
    ((table, _),) = against_theory.exponents(ready(few(), exponents=frame))
    assert table.caption == f"{caption} (6 points)"
    assert table.rows[0][1].text == "0.00", "and no sign before a zero"


def test_symbols_are_defined_where_they_are_used() -> None:
    methods = tables(few()).methods.assign(iterations=["", "t1 = 5, t2 = 1; in evaluation t1 = 12", *[""] * 5, "t = 7"])
    padded = fitted().assign(fitted_mathml="<mi>n</mi>")
    text = Page(render(tables(few(), methods=methods, fitted=padded))).text
    assert "(AOL: t₁ = 5, t₂ = 1; in evaluation t₁ = 12)" in text
    assert "t = 7" not in text, "SOC is not in this run"
    assert "in fitted formulas n = s + k − 1" in text
    assert "in fitted formulas" not in words(few())


def test_far_below_1_is_said_to_be_no_merit() -> None:
    rows = few()
    rows.loc[rows["method"] == "aol", "certificate"] = 5e-6
    text = words(rows)
    assert "Far below 1: AOL (5e-06)." in text
    for harmless in (few(), rows.assign(certificate_kind="lower bound")):
        assert "Far below 1" not in words(harmless)


def test_what_repeats_is_folded_and_stays_so_on_paper() -> None:
    document = render(tables(quick()))
    folded = "".join(re.findall(r"<details.*?</details>", document, re.DOTALL))
    for caption in ("Three ways to one count", "Complexity: paper, exact, fitted"):
        assert f"<summary><h3>{caption}</h3></summary>" in folded
    assert "<details open" not in document
    assert "beforeprint" not in document


def test_a_busy_reference_leaves_a_mark_on_networks_too() -> None:
    rows = pd.concat([few(network="XS", image_size=32, batch_size=256)], ignore_index=True)
    rows.loc[rows["method"] == "standard", "contended"] = True
    table = measurements.epochs(ready(rows))
    assert table is not None
    place = [column.title for column in table.columns].index("This run ÷ Standard")
    assert {row[place].mark for row in table.rows} == {"contended"}
    assert not np.isnan([row[place].sort for row in table.rows]).any()


def test_the_report_has_words_for_every_phase_in_its_order() -> None:
    assert tuple(measurements.PHASE_TITLES) == quantities.PHASES
    assert (*compilation.TRAINING, "parametrize", *compilation.EVALUATION) == quantities.PHASES
