"""The generator of a large run: its copies are a run that can be read, exported and listed."""

from __future__ import annotations

from pathlib import Path

import pytest
import samples

from bench.large_run import copied, spent
from lipbench.analysis.rows import measured_rows
from lipbench.store.records import load_run, save
from lipbench.store.rounds import Record
from lipbench.store.run_plan import RunPlan, save_plan


def test_copies_differ_in_the_batch_size_and_make_a_whole_run(tmp_path: Path) -> None:
    case = samples.case("aol")
    save_plan(tmp_path / "few", RunPlan(cases=(case,), rounds=1))
    save(tmp_path / "few", Record(case, 1, (samples.ok({"step": samples.timing(1.0, 1.1, 1.2)}),)))
    assert copied(tmp_path / "few", tmp_path / "many", 5) == 5
    run = load_run(tmp_path / "many")
    assert run.problems == ()
    assert [record.case.batch_size for record in run.records] == [1, 2, 3, 4, 5]
    assert measured_rows(run)["median_s"].nunique() == 1


def test_a_verb_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="export"):
        spent("export", str(tmp_path / "nothing"))
