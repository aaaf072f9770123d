"""Runs of older schemas: their export is that of the program that wrote them, and their warnings have a kind."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import get_args

import pytest
import samples

from lipbench.cli.main import main
from lipbench.errors import LipbenchError
from lipbench.quantities import Caution, CautionKind
from lipbench.store import old_warnings, records
from lipbench.store.rounds import SCHEMA, Record

DATA = Path(__file__).parent / "data" / "schema1"
RUNS = ("layers", "compiled", "faulty")
CHANGED: dict[str, str] = {}
"""columns whose contents changed on purpose, with the reason; none yet"""


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_gives_its_old_export_byte_for_byte(tmp_path: Path, name: str) -> None:
    """In the columns that there were; what has come in since is in no old file."""
    with pytest.raises(SystemExit) as ended:
        main(["export", str(DATA / name), "-o", str(tmp_path / "now.csv")])
    assert ended.value.code == 0
    before = DATA / f"{name}.csv"
    columns = [column for column in _header(before) if column not in CHANGED]
    assert _only(before, columns, tmp_path / "old.csv") == _only(tmp_path / "now.csv", columns, tmp_path / "new.csv")


def _header(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return next(csv.reader(file))


def _only(path: Path, columns: list[str], output: Path) -> bytes:
    """The file with these columns alone, written as the export writes."""
    with path.open(newline="") as file, output.open("w", newline="") as written:
        rows = csv.DictWriter(written, columns, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        rows.writerows(csv.DictReader(file))
    return output.read_bytes()


@pytest.mark.parametrize("name", RUNS)
def test_old_runs_are_whole(name: str) -> None:
    run = records.load_run(DATA / name)
    assert {record.schema for record in run.records} == {1}
    assert run.problems == ()


OLD_WARNINGS = [
    Caution("contended", ("step",), "others used the machine during step; measure again when it is idle"),
    Caution("contended", ("forward", "first_inference"),
            "others used the machine during forward, first_inference; measure again when it is idle"),
    Caution("unsettled", ("backward", "step"),
            "the median of backward, step was not settled at the time limit; allow more seconds a phase"),
    Caution("low_clock", ("forward", "step"), "the GPU's power limit held its clock at 60% of the maximum during forward, "
            "step; the times hold for this setting of the card alone"),
    Caution("low_clock", ("inference",), "the GPU's hardware slowdown held its clock at 50% of the maximum during inference; "
            "see to its cooling and power, and measure again"),
    Caution("interpreted", (), "interpreted, not a timing: Triton kernels ran in their interpreter; measure on a GPU, without "
            "TRITON_INTERPRET"),
    Caution("one_process", (), "one process: how much processes differ, usually more than samples within one, is not known"),
    Caution("threads", (), "torch runs 2 threads instead of 97; set OMP_NUM_THREADS before torch is imported"),
    Caution("precision", (), "precision tf32x3 has no effect on a CPU; compare with ieee"),
    Caution("no_certificate", (), "no certificate could be found (RuntimeError: no float64); let the layer run in float64 on a "
            "single image"),
    Caution("no_certificate", (), "no certificate could be found in training mode (RuntimeError: no); let the layer run in "
            "float64 on a single image"),
    Caution("graph_break", (), "torch.compile left the graph: Data-dependent branching"),
    Caution("recompiled", ("forward", "backward"),
            "torch.compile compiled forward, backward again after the first call; see TORCH_LOGS=recompiles"),
    Caution("inexact", (), "the compiled output differs from the uncompiled one by 1.2e-02 of its norm; do not use it"),
    Caution("uncompared", (), "the compiled output could not be compared with the uncompiled one (OutOfMemoryError: full); use "
            "a smaller batch"),
    Caution("fallback", (), "fallback to paper in 1 layer: products in float64 are not for this kernel"),
    Caution("other", (), "what another program said of others used the machine during step; "),
]  # fmt: skip
"""as programs of schema 1 and 2 wrote their texts"""


@pytest.mark.parametrize("schema", [1, 2])
def test_old_texts_are_read_with_their_kind(tmp_path: Path, schema: int) -> None:
    assert {one.kind for one in OLD_WARNINGS} == {*get_args(CautionKind)} - {"cannot_tell"}  # this one is newer
    record = Record(samples.case(), 1, (samples.ok({"step": samples.timing(1.0)}),))
    path = records.record_path(samples.save_run(tmp_path, [record]), record.case)
    values = json.loads(path.read_text())
    values["rounds"][0]["warnings"] = [one.text for one in OLD_WARNINGS]
    path.write_text(json.dumps({**values, "schema": schema}))
    read = records.load_record(path)
    assert read.rounds[0].warnings == tuple(OLD_WARNINGS)
    records.save(tmp_path, read)
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert records.load_record(path).rounds == read.rounds


@pytest.mark.parametrize("warnings", ["a text", [1], [{"kind": "other", "phases": [], "text": "of schema 3"}]])
def test_old_warnings_that_are_no_texts_are_damage(warnings: object) -> None:
    with pytest.raises(TypeError):
        old_warnings.with_kinds({"warnings": warnings})


def test_a_kind_that_nobody_knows_is_damage(tmp_path: Path) -> None:
    record = Record(samples.case(), 1, (samples.ok({"step": samples.timing(1.0)}, warnings=("one",)),))
    path = records.record_path(samples.save_run(tmp_path, [record]), record.case)
    path.write_text(path.read_text().replace('"kind": "other"', '"kind": "weather"'))
    with pytest.raises(LipbenchError, match="unknown 'weather'"):
        records.load_record(path)


def test_warnings_in_old_runs_name_the_phases_that_their_timings_do() -> None:
    told = [(one, kind) for name in RUNS for record in records.load_run(DATA / name).records for one in record.rounds
            for kind in one.warnings]  # fmt: skip
    assert {found.kind for _, found in told} == {"contended", "unsettled"}
    for one, found in told:
        timings = (one.phases or {}).items()
        contended = tuple(phase for phase, timing in timings if timing.contention and timing.contention.contended)
        unsettled = tuple(phase for phase, timing in timings if not timing.converged)
        assert found.phases == (contended if found.kind == "contended" else unsettled)
