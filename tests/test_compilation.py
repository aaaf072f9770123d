"""Compiled and interpreted cases in the report: they are separate from the other cases in every comparison."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from lipbench_reports.compilation import verdict
from lipbench_reports.costs import costs
from lipbench_reports.html import render
from report_frames import Page, compiled, quick, ready, tables


def cells(document: str, section: str) -> list[list[str]]:
    """Texts of the first table in a section, row by row."""
    part = document.partition(f'<section id="{section}">')[2].partition("</table>")[0]
    rows = re.findall(r"<tr.*?</tr>", part, re.DOTALL)
    return [[Page(cell).text.strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def test_what_compiling_changes_stands_in_a_section_of_its_own() -> None:
    rows = compiled()
    aol = rows["method"] == "aol"
    rows.loc[aol & (rows["phase"] == "step"), "median_s"] = np.where(
        rows[aol & (rows["phase"] == "step")]["compiled"], 0.5, 1.0
    )
    document = render(tables(rows))
    head, *found = cells(document, "compile")
    by_method = {row[0]: dict(zip((re.sub(r"[^\w÷, ]", "", name).strip() for name in head), row)) for row in found}
    assert list(by_method) == ["Standard", "AOL", "SOC"]
    assert by_method["AOL"]["Step, ÷"] == "0.500×"
    assert by_method["AOL"]["Pays after steps"] == "20.0"  # 10 s ÷ (1.0 s − 0.5 s)
    assert by_method["SOC"]["Pays after steps"] == "never"
    assert (by_method["AOL"]["Compiling, training s"], by_method["AOL"]["Compiling, inference s"]) == ("10.0", "3.00")
    assert by_method["AOL"]["Saved, ÷"] == "1.00×"
    text = Page(document).text
    assert "Compiled by torch.compile, a training step takes from 0.5 (AOL) to 1.25 (SOC) times as long as uncompiled." in text
    assert 'id="compile"' not in render(tables(quick()))


def test_what_was_compiled_at_few_shapes_does_not_choose_the_shape_that_all_is_shown_at() -> None:
    rows = compiled().query("not compiled or channels == 16")
    assert ready(rows).shape == "64 ch"
    assert len(cells(render(tables(rows)), "compile")) == 1 + 3, "all pairs, though none is at that shape"


def test_compiled_and_uncompiled_rows_never_meet_in_a_ranking() -> None:
    rows = compiled()
    found = costs(ready(rows))
    alone = costs(ready(rows[~rows["compiled"]]))
    assert [one.columns for one in found.series] == [one.columns for one in alone.series]
    for one, other in zip(found.series, alone.series):
        assert {measure: found.of(measure, one) for measure in found.comparisons} == {
            measure: alone.of(measure, other) for measure in alone.comparisons
        }
    document = render(tables(rows))
    assert "Scores of AOL" in document
    assert "Scores of AOL · compiled" not in document
    captions = re.findall(
        r"<figcaption>(.*?)</figcaption>", document.partition('<section id="figures">')[2].partition("</section>")[0]
    )
    assert [caption.endswith(", compiled") for caption in captions] == [False, True] * 4
    assert "AOL · compiled" in Page(document).text, "plain numbers have both"


def test_doubtful_pairs_are_marked_and_say_nothing() -> None:
    rows = compiled()
    rows.loc[(rows["method"] == "aol") & rows["compiled"], "contended"] = True
    document = render(tables(rows))
    row = next(row for row in cells(document, "compile") if row[0] == "AOL")
    assert any("†" in cell for cell in row)
    assert "a training step takes from 1 (Standard) to 1.25 (SOC) times" in Page(document).text


def test_what_was_compiled_at_one_shape_alone_says_nothing_beside_the_others() -> None:
    rows = compiled()
    soc = rows[(rows["method"] == "soc") & (rows["channels"] > 16)].index
    said = verdict(ready(rows.drop(soc)))
    assert "a training step takes from 0.5 (AOL) to 1 (Standard) times" in said[0]
    assert verdict(ready(rows.assign(contended=None))) == []


def test_interpreted_times_rank_nowhere_are_not_drawn_and_are_marked() -> None:
    rows = pd.concat([quick(), quick().query("method == 'aol'").assign(
        implementation="triton", interpreted=True, median_s=1e-9, peak_memory_bytes=1.0)])  # fmt: skip
    found = costs(ready(rows))
    interpreted = {one.key for one in found.series if one.columns["interpreted"]}
    assert len(interpreted) == 1
    for comparison in found.comparisons.values():
        assert interpreted.isdisjoint(comparison.entries or {})
    document = render(tables(rows))
    label = "AOL · triton · interpreted"
    assert f"Scores of {label}" not in document
    assert "interpreted" not in document.partition('<section id="figures">')[2].partition("</section>")[0]
    found = re.findall(r"<table>.*?</table>", document, re.DOTALL)
    plain = next(table for table in found if "<caption>Time and memory of each phase" in table)
    row = next(row for row in re.findall(r"<tr.*?</tr>", plain, re.DOTALL) if label in row)
    assert row.count("‡") == len(re.findall("<small>", row)) + 1 > 1, "six times and the throughput"
    (counted,) = re.findall(r"<caption>Multiply-accumulates of.*?</table>", document, re.DOTALL)
    formulas = {label in row: row.count("<math>") for row in re.findall(r"<tr.*?</tr>", counted, re.DOTALL) if "AOL" in row}
    assert formulas == {False: 2, True: 1}, "the exact formula is that of the paper's implementation"
    text = Page(document).text
    assert f"{label}, 64 ch: forward" in text
    assert "Interpreted: Triton kernels ran in Triton's interpreter" in text


def test_a_run_of_interpreted_cases_alone_claims_nothing() -> None:
    text = Page(render(tables(quick().assign(implementation="triton", interpreted=True)))).text
    assert "Nothing was timed: Triton kernels ran in Triton's interpreter." in text
    assert "trained fastest" not in text
