"""The opening sentences of a report never contradict its table: generated runs with disturbances, violations and gaps."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from lipbench_reports.costs import Costs, costs
from lipbench_reports.first_screen import DEEDS as FIRST_DEEDS
from lipbench_reports.first_screen import sentence, split
from lipbench_reports.measurements import summary
from lipbench_reports.prepared import prepare
from lipbench_reports.verdict import verdict
from report_frames import CHANNELS, METHODS, quick, tables

DEEDS = {"training step": "trained fastest", "inference": "had the cheapest inference"}


def disturbed(seed: int) -> pd.DataFrame:
    """The quick run with random speeds of methods, contended and missing shapes, violations and missing certificates."""
    rng = np.random.default_rng(seed)
    rows = quick()
    for method in METHODS:
        own = rows["method"] == method
        rows.loc[own, ["median_s", "low_s", "high_s"]] *= float(np.exp(rng.normal(0, 0.7))) if method != "standard" else 1.0
        for channels in CHANNELS:
            case = own & (rows["channels"] == channels)
            fate = rng.choice(["fine", "contended", "missing", "uncertified"], p=[0.8, 0.1, 0.05, 0.05])
            if method != "standard" and fate == "missing":
                rows = rows[~case]
            elif fate == "contended":
                rows.loc[case, "contended"] = True
                rows.loc[case, "median_s"] *= float(rng.uniform(1, 5))
            elif fate == "uncertified":
                rows.loc[case, "certificate"] = np.nan
            own = rows["method"] == method
        if method != "standard" and rng.random() < 0.1:
            rows.loc[own, "certificate"] = 1.5
    return rows.reset_index(drop=True)


def printed(found: Costs, measure: str) -> dict[str, float]:
    """Label → ratio, for everything that the summary prints and that may be named: not the yardstick."""
    entries = {one.label: found.of(measure, one).ratio for one in found.series if one.key not in found.yardsticks}
    return {label: value for label, value in entries.items() if np.isfinite(value)}


@pytest.mark.parametrize("seed", range(16))
def test_no_superlative_is_contradicted_by_a_printed_number(seed: int) -> None:
    ready = prepare(tables(disturbed(seed)))
    found = costs(ready)
    table = summary(ready, found)
    assert table is not None
    for measure, deed in DEEDS.items():
        sentence = next((text for text in verdict(ready, found) if deed in text), "")
        if not sentence:
            continue
        shown = printed(found, measure)
        first = re.findall(r"\w+", sentence.partition(deed)[0].partition("methods, ")[2].replace(" and ", " "))
        slowest = sentence.partition("; ")[2].partition(" w")[0].replace(",", " ").replace(" and ", " ").split()
        unranked = sentence.partition("Not ranked: ")[2]
        least, most = (end(shown[name] for name in names) for end, names in ((min, first), (max, slowest)))
        for label, value in shown.items():
            if value < least or value > most:
                assert f"{label} at" in unranked, f"{label} at {value} contradicts: {sentence}"


def test_a_disturbed_method_beyond_the_slowest_is_named() -> None:
    """ "SOC was the slowest, at 3.19 times" once stood above a table with LOT at 10.9."""
    rows = quick()
    lot = (rows["method"] == "lot") & (rows["channels"] == 32)
    rows.loc[lot, "contended"] = True
    rows.loc[rows["method"] == "lot", "median_s"] *= 20
    ready = prepare(tables(rows))
    sentence = verdict(ready, costs(ready))[0]
    assert re.search(r"Not ranked: LOT at \d", sentence)


def test_overlapping_intervals_are_a_tie() -> None:
    rows = quick().query("method in ('standard', 'aol', 'soc')")
    aol = rows[rows["method"] == "aol"].set_index(["channels", "phase"])["median_s"]
    soc = rows["method"] == "soc"
    keys = zip(rows.loc[soc, "channels"], rows.loc[soc, "phase"])
    rows.loc[soc, "median_s"] = [1.001 * aol[key] for key in keys]
    ready = prepare(tables(rows))
    assert "the intervals of all 2 ranked methods overlap" in verdict(ready, costs(ready))[0]


@pytest.mark.parametrize("seed", range(16))
def test_the_sentence_of_the_first_screen_names_the_best_ranked_methods(seed: int) -> None:
    ready = prepare(tables(disturbed(seed)))
    found = costs(ready)
    said = sentence(ready, found).removeprefix("Of the ranked methods, ")
    for measure, deeds in FIRST_DEEDS:
        own = re.search(rf"((?:[\w ]+?, )*[\w ]+?) (?:{'|'.join(deeds)}) \(([\d.]+)", said)
        if own is None:
            continue
        best = found.ranking(measure)[0][1].estimate
        named = set(re.findall(r"\w+", own[1])) - {"and"}
        tied = {one.label for one, entry in found.ranking(measure) if entry.estimate.overlaps(best)}
        assert named == tied
        assert float(own[2]) == pytest.approx(best.value, rel=0.3), "with the digits that the interval carries"


def test_the_sentence_of_the_first_screen_names_nobody_where_nothing_is_told_apart() -> None:
    rows = quick()
    rows.loc[rows["phase"].isin(["step", "inference"]), ["peak_memory_bytes"]] = 1e6
    rows["contended"] = True
    ready = prepare(tables(rows))
    found = costs(ready)
    assert sentence(ready, found) == verdict(ready, found)[0]


def test_bars_begin_at_the_baseline_and_end_at_the_value() -> None:
    ready = prepare(tables(quick()))
    found = costs(ready)
    table = summary(ready, found)
    assert table is not None
    first, rest = split(table, found)
    assert rest is not None
    titles = [column.title for column in first.columns]
    assert titles == ["Method", "Training step", "Inference", "Training memory", "Lipschitz constant"]
    assert set(titles) | {column.title for column in rest.columns} == {column.title for column in table.columns}
    cells = [cell for row in first.rows for cell in row if cell.bar]
    assert len(cells) == 3 * len(found.series)
    ordered = sorted(cells, key=lambda cell: float(str(cell.sort)))
    assert [cell.bar.value for cell in ordered if cell.bar] == sorted(cell.bar.value for cell in ordered if cell.bar)
    for cell in cells:
        assert cell.bar is not None
        assert 0 <= cell.bar.low <= cell.bar.value <= cell.bar.high <= 1
        assert (cell.bar.value > cell.bar.base) == (float(str(cell.sort)) > 1)
