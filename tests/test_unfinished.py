"""The report of a run that is not finished, and what there is to do about each doubt."""

from __future__ import annotations

from typing import get_args

import pandas as pd
import pytest
from lipbench_reports import findings
from lipbench_reports.html import render
from report_frames import RUN, failed_row, quick, tables, warnings, words

from lipbench.quantities import CautionKind

LEFT = {"planned": 24, "unfinished": [f"case-{number}" for number in range(13)]}


def few() -> pd.DataFrame:
    return quick().query("method in ('standard', 'aol')").reset_index(drop=True)


def test_a_finished_run_says_that_all_was_measured() -> None:
    for run in ({}, {"planned": 24, "unfinished": []}):
        text = words(few(), **run)
        assert "Every case was measured." in text
        assert "None: every case gave numbers." in text
        assert "so far" not in text


def test_an_unfinished_run_says_so_first_and_claims_nothing_of_the_rest() -> None:
    text = words(few(), **LEFT)
    title = "Synthetic run"
    assert text.strip().startswith(f"{title} {title} 11 of 24 cases so far.")
    assert "Every case was measured" not in text
    assert "every case gave numbers" not in text
    assert "None so far. 13 cases not run yet" in words(few(), "failures", **LEFT)
    failed = pd.concat([few(), pd.DataFrame([failed_row("lot", 16, "crashed", "signal 11")])])
    assert "13 cases not run yet" in words(failed, "failures", **LEFT)
    doubts = words(few(), "warnings", **LEFT)
    assert "Not run yet" in doubts
    assert "lipbench profile --resume --out" in doubts
    assert "case-12" in doubts
    assert "could not be read" not in doubts


def test_a_case_that_lacks_rounds_or_its_certificate_is_not_called_measured() -> None:
    text = words(few(), incomplete=["case-1", "case-2"])
    assert "2 cases are not complete: rounds, MACs or certificates are missing." in text
    assert "Every case was measured" not in text
    bare = few().assign(certificate=float("nan"), certificate_kind="")
    assert "Not ranked, because without a certificate so far: AOL" in words(bare, incomplete=["case-1"])
    assert "Not ranked, because without a certificate: AOL" in words(bare)


def test_without_a_plan_what_is_missing_is_counted_all_the_same() -> None:
    assert "1 case not run yet" in words(few(), unfinished=["case-1"], planned=0)


def test_what_could_not_be_read_is_not_called_measured() -> None:
    assert "Every case was measured" not in words(few(), problems=["records/x.json: half a file"])


def test_a_record_without_rounds_is_no_failure() -> None:
    rows = pd.concat([few(), pd.DataFrame([failed_row("lot", 128, "", "")])])
    assert "none was recorded" not in words(rows)


def test_the_cure_of_contention_names_the_files_and_the_command() -> None:
    rows = few()
    rows.loc[(rows["method"] == "aol") & (rows["channels"] == 16), "contended"] = True
    doubts = words(rows, "warnings", out="runs/one", command="lipbench profile --out=not-here")
    assert "(records/aol-paper-c16-s16-k3-b32.json)" in doubts
    assert "repeat the rounds by --retry-contended: lipbench profile --resume --out runs/one" in doubts
    assert "--resume --out 'my runs/one'" in words(rows, "warnings", out="my runs/one")
    assert "--resume --out <run directory>" in words(rows, "warnings")


def test_kinds_of_warnings_are_those_that_are_recorded() -> None:
    assert set(findings.OWN_ENTRY) < set(get_args(CautionKind))


@pytest.mark.parametrize("kind", findings.OWN_ENTRY)
def test_warnings_with_an_entry_of_their_own_are_not_repeated(kind: str) -> None:
    rows = few()
    told = pd.concat([warnings(rows.assign(warnings="said above"), kind), warnings(rows.assign(warnings="something else"))])
    text = words(rows, frames={"warnings": told})
    assert "said above" not in text
    assert "something else: Standard (16 ch), " in text


def test_how_a_constant_was_found_is_said_in_one_way() -> None:
    broken = failed_row("soc", 128, "not_lipschitz", "Lipschitz constant = 1.7 in evaluation, found by fourier at image size 8")
    bound = {"mode": "evaluation", "largest": 1.7, "kind": "exact", "how": "fourier", "image_size": 8, "case": broken["case"]}
    bounds = pd.DataFrame([{**bound, "largest": 1.0}, bound, {**bound, "largest": 2.0}])
    text = words(pd.concat([few(), pd.DataFrame([broken])]), frames={"certificates": bounds})
    said = "Lipschitz constant = 1.700000 in evaluation, found by all Fourier blocks at image size 8; 1 + 0.0001 is allowed"
    assert said in text
    assert "fourier" not in text
    growing = failed_row("soc", 128, "not_lipschitz", "the variance over a batch grows in 2.0")
    assert growing["reason"] in words(pd.concat([few(), pd.DataFrame([growing])]), frames={"certificates": pd.DataFrame()})


def test_the_machine_says_nothing_twice_and_nothing_of_a_gpu_that_is_not_there() -> None:
    machine = {**RUN["machine"], "packages": {"lipbench": "0", "torch": "9.9", "numpy": "2"},
               "flags": {"threads": "1", "cudnn_benchmark": "False", "deterministic_algorithms": "False"}}  # fmt: skip
    text = words(few(), "machine", machine=machine)
    assert "torch 2.13.0" in text
    assert "packages numpy 2 flags threads 1" in text
    assert "9.9" not in text
    assert "cudnn" not in text
    assert "deterministic" not in text
    assert "cudnn benchmark False" in words(few(), "machine", machine={**machine, "gpu": "a GPU"})


def test_options_of_the_command_stay_with_their_values() -> None:
    document = render(tables(few(), run={**RUN, "command": "lipbench profile --channels 4,8,16 --threads 1"}))
    assert "<span>lipbench profile</span> <span>--channels 4,8,16</span> <span>--threads 1</span>" in document
