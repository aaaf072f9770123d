"""The report's statements about certificates, agreement of counts and predictions."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import samples
from lipbench_reports import agreement
from lipbench_reports import certificates as certificate_tables
from lipbench_reports.against_theory import Formulas
from lipbench_reports.cells import VIOLATION, Table, power_of_ten
from lipbench_reports.costs import Costs, costs
from lipbench_reports.html import render
from lipbench_reports.prepared import prepare
from report_frames import METHODS, Page, complexity, quick, ready, tables, troubled

from lipbench.analysis.rows import certificate_rows, measured_rows
from lipbench.quantities import Certificate
from lipbench.store.records import Run
from lipbench.store.rounds import Record
from lipbench.store.run_plan import RunPlan


@pytest.fixture(scope="module")
def document() -> str:
    return render(tables(troubled()))


def excluded(found: Costs) -> set[str]:
    """Methods that are not ranked because they are not 1-Lipschitz as they claim."""
    return {one.method for one in found.series if one.key in found.excluded}


def test_the_yardstick_shows_its_constant_and_is_not_called_a_failure(document: str) -> None:
    rows = troubled()
    assert "standard" not in excluded(costs(ready(rows)))
    text = Page(document).text
    assert "1.3700 ○ exact" in text
    assert "makes no claim to be 1-Lipschitz" in text


def test_an_upper_bound_above_1_excludes_no_method_but_a_lower_bound_does() -> None:
    rows = quick()
    rows.loc[rows["method"] == "aol", ["certificate", "certificate_kind"]] = [1.3, "upper bound"]
    rows.loc[rows["method"] == "sll", ["certificate", "certificate_kind"]] = [1.3, "lower bound"]
    assert excluded(costs(ready(rows))) == {"sll"}
    text = Page(render(tables(rows))).text
    assert "≤ 1.3000 upper bound" in text
    assert "≥ 1.3000 ✗ lower bound" in text


def test_what_is_only_sampled_is_ranked_and_said_to_be_uncertain(document: str) -> None:
    text = Page(document).text
    assert "SLL could not be certified: samples showed no violation." in text
    assert "Only a lower bound" in text
    assert "not refuted" in text


def test_a_network_with_growing_variance_names_its_layers(document: str) -> None:
    assert "2.0, head" in Page(document).text


def test_the_smallest_singular_value_is_that_of_orthogonal_methods() -> None:
    table = certificates_of(quick())
    place = [column.title for column in table.columns].index("σ min")
    values = {row[0].text: row[place].text for row in table.rows}
    assert values["SOC"] == "0.999990"
    assert values["LOT"] == "–"


def certificates_of(rows: pd.DataFrame) -> Table:
    found = ready(rows)
    table = certificate_tables.quoted_table(found, costs(found).yardsticks)
    assert table is not None
    return table


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [(1.0, "exact", "1.0000"), (1 + 1e-9, "exact", "1.0000"), (1.00011, "exact", "1.000110"),
     (1.0012, "lower bound", "≥ 1.0012"), (0.99999, "exact", "0.999990"), (37.5, "upper bound", "≤ 37.5000"),
     (float("nan"), "", "–")],
)  # fmt: skip
def test_constants_show_on_which_side_of_the_tolerance_they_are(value: float, kind: str, text: str) -> None:
    cell = certificate_tables.constant(value, kind)
    assert (cell.text, cell.note) == (text, kind)


def test_residuals_are_powers_of_ten() -> None:
    assert power_of_ten(3.2e-9) == "3\u202f·\u202f10⁻⁹"
    bounds = certificates_of(quick())
    assert "Residual" not in [column.title for column in bounds.columns], "0 is no error to speak of"


def test_three_counts_agree_or_their_difference_is_marked() -> None:
    rows = quick()
    cayley = (rows["method"] == "cayley") & (rows["phase"] == "forward")
    rows.loc[cayley, "fvcore_macs"] = rows.loc[cayley, "macs"] * 0.9
    table = agreement.counts(ready(rows[rows["channels"] == 64]))
    assert table is not None
    titles = [column.title for column in table.columns]
    differences = {(row[0].text, row[1].text): row[titles.index("Largest difference")] for row in table.rows}
    assert differences["AOL", "forward"].text == "0 %"
    assert (differences["Cayley", "forward"].text, differences["Cayley", "forward"].mark) == ("10 %", "residual")
    assert differences["AOL", "backward"].text == "–", "a count alone agrees with nothing"
    assert table.notes == ["Not counted by fvcore in LOT: prim::PythonOp.Frozen."]


def test_paper_exact_and_fitted_stand_under_each_other(document: str) -> None:
    formulas = agreement.formulas(ready(quick().query("method == 'aol'")), Formulas(complexity()), "macs")
    assert formulas is not None
    first = [row for row in formulas.rows if (row[0].text, row[1].text) == ("AOL", "input")]
    assert [row[2].text for row in first] == ["Table\u00a01", "exact", "fitted"]
    assert "<mi>C</mi>" in str(first[-1][4].math)
    assert {row[4].note for row in formulas.rows if row[0].text == "BCOP" and row[2].text == "fitted"} == {"k > 1"}
    assert next(row for row in formulas.rows if row[0].text == "LOT" and row[2].text == "fitted")[3].mark == "residual"
    assert len(formulas.rows) - len(formulas.continued) == 2 * len(METHODS)
    assert document.count('class="continued"') == 2 * len(formulas.continued)


def test_a_layer_that_could_not_be_fitted_is_a_row_with_its_reason() -> None:
    lost = pd.DataFrame([{"method": "p:L", "title": "L", "half": "input", "quantity": "macs", "fitted": "", "fitted_mathml": "",
                          "residual": np.nan, "note": "cannot load the layer: got 'p:L'"}])  # fmt: skip
    table = agreement.formulas(ready(pd.DataFrame(), fitted=lost), Formulas(complexity()), "macs")
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == ["L", "input", "fitted", "–", "cannot load the layer: got 'p:L'"]


def test_predicted_peaks_stand_beside_measured_ones() -> None:
    table = agreement.peaks(ready(quick()), "Peaks")
    assert table is not None
    differences = {
        row[0].text: [cell for cell, column in zip(row, table.columns) if column.title == "Difference"] for row in table.rows
    }
    assert [(cell.text, cell.mark) for cell in differences["AOL"]] == [("+1.00 %", "")] * 2
    assert [(cell.text, cell.mark) for cell in differences["Cayley"]] == [("+10.00 %", "residual")] * 2


def test_a_case_that_is_not_1_lipschitz_is_shown_and_nowhere_ranked(tmp_path: Path) -> None:
    """From records to the page: numbers with a mark, but no ranking, no radar, no score, no recommendation."""
    phases = {name: samples.timing(0.5) for name in ("forward", "backward", "step", "inference")}
    found = [Record(samples.case(name, c), 1, (samples.ok(phases),)) for name in ("standard", "aol", "soc") for c in (4, 8)]
    broken = [Record(samples.case("cpl", c), 1, (samples.failed("not_lipschitz", "constant 1.02", samples.VIOLATING),))
              for c in (4, 8)]  # fmt: skip
    run = Run(tmp_path, RunPlan(), (*found, *broken))
    rows = measured_rows(run)
    given = tables(rows, certificates=certificate_rows(run), fitted=pd.DataFrame())
    costed = costs(prepare(given))
    (cpl,) = (one.key for one in costed.series if one.method == "cpl")
    for measure, comparison in costed.comparisons.items():
        assert {one.method for one, _ in costed.ranking(measure)} <= {"aol", "soc"}
        assert cpl not in comparison.ranked
        if measure == "training step":
            assert comparison.entries is not None
            assert comparison.entries[cpl].mark == VIOLATION
    document = render(given)
    text = Page(document).text
    assert "Scores of AOL" in document
    assert not re.search(r"Scores of CPL", document)
    assert "Without a point: CPL at 4, CPL at 8" in text
    assert not re.search(r"CPL[^.]*(trained fastest|cheapest inference)", text)
    assert "Not ranked, because not 1-Lipschitz: CPL (at 4 ch; 8 ch)." in text
    assert "1.0200 exact" in text
    for drawing in re.findall(r"<svg viewBox.*?</svg>", document, re.DOTALL):
        assert "CPL" not in drawing


def test_products_over_layers_are_printed_whatever_their_size() -> None:
    texts = [certificate_tables.constant(value, "upper bound").text for value in (5.06e-6, 0.25, 1.0, 1.000094, 36159356.5)]
    assert texts == ["≤ 5.06e-06", "≤ 0.2500", "≤ 1.0000", "≤ 1.000094", "≤ 3.62e+07"]


def test_a_layer_of_which_the_bounds_cannot_tell_is_not_called_1_lipschitz() -> None:
    unknown = Certificate(samples.EXACT.evaluation, (), unknown="computes in bfloat16")
    record = Record(samples.case("aol"), 1, (replace(samples.ok({}), certificate=unknown),))
    group = certificate_rows(Run(Path(), RunPlan(), (record,))).assign(status="ok")
    cell = certificate_tables._judged(group, group.iloc[0], False)
    assert (cell.text, cell.note) == ("cannot tell", "computes in bfloat16")
