"""The answer of a run in a few lines says what its report says."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import report_frames
import training_records
from lipbench_reports.brief import COLUMNS, brief
from lipbench_reports.costs import MEASURES, costs
from lipbench_reports.prepared import prepare
from lipbench_reports.verdict import verdict

from lipbench.answer import Answer
from lipbench.api import Run
from lipbench.cli import formats
from lipbench.errors import LipbenchError
from lipbench.store.records import Run as Stored
from lipbench.store.run_plan import RunPlan


def test_every_ratio_with_its_interval_and_the_verdict() -> None:
    tables = report_frames.tables(report_frames.quick())
    ready = prepare(tables)
    found, short = costs(ready), brief(tables)
    assert list(short.frame.columns) == list(COLUMNS)
    assert short.remarks[: len(verdict(ready, found))] == tuple(verdict(ready, found))
    assert len(short.frame) == len(found.series) * len(MEASURES)
    for row in short.frame.itertuples():
        (series,) = (one for one in found.series if one.label == row.series)
        own = found.of(str(row.measure), series)
        assert (row.ratio, row.shapes, row.baseline) == (own.ratio, own.shapes, "Standard")
        assert row.low <= row.ratio <= row.high
        assert row.ranked == (series.method != "standard")
    soc = short.readable.set_index("Method").loc["SOC"]
    step = short.frame.set_index(["series", "measure"]).loc[("SOC", "training step")]
    assert soc["Training step"].startswith(f"{step['ratio']:.3g}"[:3])
    assert "–" in soc["Training step"]
    assert soc["Lipschitz constant"] != "–"
    assert "Failed cases" not in short.readable


def test_doubts_are_marked_and_their_signs_explained() -> None:
    short = brief(report_frames.tables(report_frames.troubled()))
    text = short.readable.to_string()
    signs = [sign for sign in "†‡§✗○" if sign in text]
    assert signs
    assert all(any(line.startswith(f"{sign} ") for line in short.remarks) for sign in signs)
    assert (short.readable["Failed cases"] != "0").any()


def test_a_run_in_which_nothing_worked_has_a_sentence_and_no_table() -> None:
    failed = pd.DataFrame([report_frames.failed_row("aol", 16, "timeout", "took too long")])
    short = brief(report_frames.tables(failed))
    assert short.frame.empty
    assert not len(short.readable.columns)
    printed = formats.encoded(Answer(short.frame, short.readable, short.remarks), "table")
    assert str(printed).splitlines()[0] == short.remarks[0]
    assert "The only case gave no measurement." in short.remarks


def test_the_constant_is_the_largest_of_all_cases() -> None:
    rows = report_frames.quick()
    chosen = (rows["method"] == "aol") & (rows["channels"] == rows["channels"].min())
    short = brief(report_frames.tables(rows.assign(certificate=rows["certificate"].mask(chosen, 0.25))))
    largest = rows[rows["method"] == "aol"]["certificate"].max()
    assert not math.isclose(largest, 0.25)
    assert set(short.frame[short.frame["method"] == "aol"]["certificate"]) == {largest}
    kinds = rows["certificate_kind"].mask(chosen, "upper bound")
    loose = rows.assign(certificate=rows["certificate"].mask(chosen, 9.0), certificate_kind=kinds)
    (constant,) = set(brief(report_frames.tables(loose)).frame.query("method == 'aol'")["certificate"])
    assert constant == rows[(rows["method"] == "aol") & ~chosen]["certificate"].max()


def test_trainings_alone_give_their_accuracy(tmp_path: Path) -> None:
    stored = Stored(tmp_path, RunPlan(), (), ())
    answer = Run(stored, tuple(training_records.several())).summary()
    assert set(answer.frame["method"]) == set(training_records.WORTH)
    assert {"accuracy", "cra_36"} <= set(answer.frame)
    with pytest.raises(LipbenchError, match="no case has run yet"):
        Run(stored).summary()
