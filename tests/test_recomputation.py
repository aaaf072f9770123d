"""Recomputed cases in the report: beside those as written, and never in a ranking with them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from lipbench_reports.brief import brief
from lipbench_reports.costs import costs
from lipbench_reports.html import render
from lipbench_reports.recomputation import changes, verdict
from report_frames import Page, quick, ready, recomputed, tables


def column(title: str, rows: object = None) -> list[str]:
    found = changes(ready(recomputed() if rows is None else rows).at_shape)
    assert found is not None
    places = {re.sub(r"\W+", " ", f"{one.title} {one.unit}").strip(): place for place, one in enumerate(found.columns)}
    return [row[places[title]].text for row in found.rows]


def test_both_ends_stand_side_by_side() -> None:
    assert column("Method") == ["Standard", "AOL", "SOC"]
    assert column("Step as written ms") == ["4.00"] * 3
    assert column("Step recomputed ms") == ["4.00", "5.00", "6.00"]
    assert column("Training peak as written MB") == ["6.00"] * 3
    assert column("Training peak recomputed MB") == ["5.00", "4.00", "3.00"]
    assert column("Saved per extra second GB") == ["no extra time", "2.00", "1.50"]  # 2 MB ÷ 1 ms, 3 MB ÷ 2 ms


def test_what_saves_nothing_or_is_not_known_says_so() -> None:
    rows = recomputed()
    changed = rows["recomputed"] & (rows["phase"] == "step")
    rows.loc[changed & (rows["method"] == "aol"), "peak_memory_bytes"] = 7e6
    rows.loc[changed & (rows["method"] == "standard"), "median_s"] = np.nan
    assert column("Saved per extra second GB", rows) == ["–", "nothing", "1.50"]


def test_sentences_name_both_ends_and_where_most_is_saved() -> None:
    said = " ".join(verdict(ready(recomputed())))
    assert "a training step takes from 1 (Standard) to 1.5 (SOC) times as long" in said
    assert "its memory is from 0.5 (SOC) to 0.833 (Standard) times as large as without." in said
    assert re.search(r"Most bytes per extra second of a step are saved by AOL at \S+ ch, 2\.00 GB\.", said)
    rows = recomputed().assign(peak_memory_bytes=1e6)
    assert "and its memory is 1 times as large as without." in " ".join(verdict(ready(rows)))
    assert said in " ".join(brief(tables(recomputed())).remarks)
    assert verdict(ready(quick())) == []


def test_the_section_is_there_only_for_recomputed_cases() -> None:
    document = render(tables(recomputed()))
    assert "What recomputation changes" in Page(document).text
    assert "AOL · recomputed" in Page(document).text, "plain numbers have both"
    assert 'id="recompute"' in document
    assert 'id="recompute"' not in render(tables(quick()))


def test_recomputed_rows_are_in_no_ranking() -> None:
    rows = recomputed()
    found, alone = costs(ready(rows)), costs(ready(rows[~rows["recomputed"]]))
    assert [one.columns for one in found.series] == [one.columns for one in alone.series]
    for one, other in zip(found.series, alone.series):
        for measure in alone.comparisons:
            assert found.of(measure, one) == alone.of(measure, other)


@pytest.mark.parametrize("is_on", [False, True])
def test_a_run_of_one_kind_alone_has_no_pairs(is_on: bool) -> None:
    rows = recomputed()
    assert changes(ready(rows[rows["recomputed"] == is_on])) is None
