"""Who is ranked: only over shapes that all share, only where contention was watched, only with a certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lipbench_reports.costs import Costs, costs
from lipbench_reports.html import render
from report_frames import CHANNELS, Page, quick, ready, tables, warnings, words


def with_ratios(**ratios: Sequence[float]) -> pd.DataFrame:
    """Methods whose times are such multiples of Standard's at the widths, as far as they were measured."""
    rows = quick()
    standard = rows[rows["method"] == "standard"].set_index(["channels", "phase"])["median_s"]
    found = [rows[rows["method"] == "standard"]]
    for method, factors in ratios.items():
        for channels, factor in zip(CHANNELS, factors):
            case = rows[(rows["method"] == method) & (rows["channels"] == channels) & (rows["phase"] != "parametrize")]
            times = [standard[channels, phase] * factor for phase in case["phase"]]
            found.append(case.assign(median_s=times, low_s=times, high_s=times))
    return pd.concat(found, ignore_index=True)


def costed(rows: pd.DataFrame) -> Costs:
    return costs(ready(rows))


def ranking(found: Costs, measure: str = "training step") -> dict[str, float]:
    return {one.method: pytest.approx(entry.ratio) for one, entry in found.ranking(measure)}


def test_what_ran_at_the_smallest_shape_alone_does_not_win() -> None:
    rows = with_ratios(aol=(2, 6, 12), bcop=(3,))
    found = costed(rows)
    assert ranking(found) == {"aol": 144 ** (1 / 3)}
    assert np.isnan(found.score("training step", next(one for one in found.series if one.method == "bcop")))
    document = render(tables(rows))
    text = Page(document).text
    assert "AOL is the only method whose training step could be ranked: 5.24 times the step time of Standard." in text
    assert "Not ranked: BCOP (measured at 1 of 3 shapes)." in text
    assert "Scores of AOL" in document
    assert "Scores of BCOP" not in document


def test_one_that_fails_almost_everywhere_does_not_shrink_the_comparison_of_the_others() -> None:
    found = costed(with_ratios(aol=(2, 6, 12), soc=(4, 4, 4), bcop=(1,)))
    assert ranking(found) == {"soc": 4, "aol": 144 ** (1 / 3)}
    assert found.comparisons["training step"].shapes == ["16 ch", "32 ch", "64 ch"]


def test_what_ran_at_a_further_shape_alone_does_not_bar_the_others() -> None:
    rows = with_ratios(aol=(2, 2, 2), soc=(3, 3), cpl=(4, 4), sll=(5, 5))
    assert ranking(costed(rows)) == {"aol": 2, "soc": 3, "cpl": 4, "sll": 5}


@pytest.mark.parametrize(
    ("doubt", "said"),
    [({"contended": True}, "undisturbed at 2 of 3 shapes"), ({"certificate": np.nan}, "certified at 2 of 3 shapes")],
    ids=["contended", "without a certificate"],
)
def test_a_shape_in_doubt_bars_from_the_ranking_and_is_said(doubt: Mapping[str, Any], said: str) -> None:
    rows = with_ratios(aol=(2, 2, 2), soc=(1, 1, 1))
    rows.loc[(rows["method"] == "soc") & (rows["channels"] == 32), list(doubt)] = list(doubt.values())
    assert ranking(costed(rows)) == {"aol": 2}
    by = " by training step and inference" if "contended" in doubt else ""
    assert f"Not ranked{by}: SOC ({said})." in words(rows)


def test_a_ratio_over_fewer_shapes_is_marked_and_the_mark_explained() -> None:
    text = words(with_ratios(aol=(2, 6, 12), bcop=(3,)))
    assert "3.00× §" in text
    assert "§ lacks some of the shapes at which the others are compared: not ranked." in text


def test_times_that_nobody_watched_are_shown_and_not_ranked() -> None:
    rows = with_ratios(aol=(2, 2, 2)).assign(contended=None, rounds=1)
    assert ranking(costed(rows)) == ranking(costed(rows), "inference") == {}
    text = words(rows)
    assert "Contention was not watched, one process: times are shown and not ranked; profile with lipbench profile." in text
    assert "trained fastest" not in text
    assert "2.00×" in text
    assert ranking(costed(rows.assign(contended=False))) == {"aol": 2}, "one process that was watched is ranked"


def test_without_a_certificate_nobody_is_ranked_and_the_reason_is_named() -> None:
    rows = with_ratios(aol=(2, 2, 2), soc=(1, 1, 1))
    reason = "no certificate could be found (RuntimeError: no float64); let the layer run in float64 on a single image"
    lost = rows["method"] == "soc"
    rows.loc[lost, "certificate"] = np.nan
    told = warnings(rows[lost].assign(warnings=reason), "no_certificate")
    found = costed(rows)
    for measure in found.comparisons:
        assert set(ranking(found, measure)) == {"aol"}
    text = words(rows, frames={"warnings": told})
    assert "Not ranked, because without a certificate: SOC." in text
    assert text.count(f"SOC, 16 ch: {reason}") == 1
    assert "Other recorded warnings" not in text, "it stands above"
    assert ranking(costed(rows.assign(certificate=np.nan))) == {}


def test_all_shapes_at_which_a_promise_is_broken_are_named_or_counted() -> None:
    rows = with_ratios(aol=(2, 2, 2), soc=(1, 1, 1))
    rows.loc[rows["method"] == "soc", "certificate"] = 1.5
    assert "Not 1-Lipschitz, and therefore not ranked: SOC (at 16 ch; 32 ch; 64 ch)." in words(rows)
    more = pd.concat([rows, rows.assign(image_size=8)], ignore_index=True)
    assert "Not 1-Lipschitz, and therefore not ranked: SOC (at 6 shapes)." in words(more)
