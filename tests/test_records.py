"""Records on disk: written whole, read back equal, and refused where they are damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import samples

from lipbench import cases, records
from lipbench.cases import Case, NetworkSpec
from lipbench.errors import LipbenchError
from lipbench.records import Record, Round

TIMINGS = {"forward": samples.timing(0.001, 0.0012, 0.0011), "step": samples.timing(0.003, 0.0031, host_s=(0.004, 0.005))}
RECORD = Record(samples.case(), 2, (samples.ok(TIMINGS, warnings=("one", "two")), samples.ok(TIMINGS, first=False)))


def test_what_is_saved_is_read_back_equal(tmp_path: Path) -> None:
    network = Record(Case(NetworkSpec("aol", "XS"), 4, "float64"), 2, (Round("timeout", "too slow"),))
    run = records.load_run(samples.save_run(tmp_path, [RECORD, network]))
    assert run.records == (RECORD, network)
    assert run.planned == (RECORD.case, network.case)
    assert run.problems == ()
    assert run.meta["rounds"] == 2


def test_records_come_in_the_order_of_the_plan(tmp_path: Path) -> None:
    planned = [samples.case(channels=channels) for channels in (8, 2, 4)]
    samples.save_run(tmp_path, [replace(RECORD, case=case) for case in sorted(planned)], planned)
    assert [record.case for record in records.load_run(tmp_path).records] == planned


def test_status_is_that_of_the_first_round_that_failed() -> None:
    failed = replace(RECORD, rounds=(RECORD.rounds[0], Round("crashed", "SIGSEGV")))
    assert (RECORD.status, RECORD.finished) == ("ok", True)
    assert (failed.status, failed.reason, failed.finished) == ("crashed", "SIGSEGV", True)
    assert not replace(RECORD, rounds=RECORD.rounds[:1]).finished


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    missing = samples.case("aol")
    begun = replace(RECORD, rounds=RECORD.rounds[:1])
    samples.save_run(tmp_path, [begun], [begun.case, missing])
    problems = records.load_run(tmp_path).problems
    assert len(problems) == 2
    assert missing.id in problems[0]
    assert "1 of 2" in problems[0]
    assert begun.case.id in problems[1]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.save_run(tmp_path, [RECORD])
    path = records.record_path(tmp_path, RECORD.case)
    before = path.read_bytes()

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        records.save(tmp_path, replace(RECORD, rounds=()))
    assert path.read_bytes() == before
    assert records.load_run(tmp_path).records == (RECORD,)


@pytest.mark.parametrize("length", [0, 1, 40, 400, -2])
def test_half_written_records_are_refused(tmp_path: Path, length: int) -> None:
    samples.save_run(tmp_path, [RECORD])
    path = records.record_path(tmp_path, RECORD.case)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(LipbenchError, match=r"not a readable file: .*\.json"):
        records.load_run(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"rounds": [{"status": "splendid"}]},
        {"rounds": [{"status": "ok", "surprise": 1}]},
        {"rounds": [{"status": "ok", "phases": {"forward": {"samples_s": ["1"]}}}]},
        {"rounds": [{"status": "ok", "phases": {"forward": {"samples_s": [True]}}}]},
        {"rounds": 3},
        {"case": {}},
        {"case": {**cases.to_dict(RECORD.case), "batch_size": 0}},
        {"schema": None},
        {"schema": records.SCHEMA + 1},
    ],
)
def test_damaged_records_are_refused_with_their_name(tmp_path: Path, damage: dict[str, object]) -> None:
    samples.save_run(tmp_path, [RECORD])
    path = records.record_path(tmp_path, RECORD.case)
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(LipbenchError, match=path.name):
        records.load_run(tmp_path)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("[1, 2]")
    (tmp_path / "other.json").write_text("{}")
    for name in ("absent", "empty", "text.json", "other.json"):
        with pytest.raises(LipbenchError, match=name):
            records.load(tmp_path / name)


BENCHMARKS = """
def test_layer(benchmark):
    benchmark.extra_info.update(CASE, phase="forward")
    benchmark.pedantic(sum, args=([1, 2],), rounds=7)

def test_layer_step(benchmark):
    benchmark.extra_info.update(CASE, phase="step")
    benchmark.pedantic(sum, args=([1, 2],), rounds=5)

def test_something_else(benchmark):
    benchmark.pedantic(sum, args=([1, 2],), rounds=3)
"""


@pytest.fixture(scope="module")
def benchmark_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file written by pytest-benchmark itself."""
    folder = tmp_path_factory.mktemp("bench")
    record = records.round_to_dict(RECORD.rounds[0])
    facts = {"case": cases.to_dict(RECORD.case), **{name: record[name] for name in ("memory", "macs", "machine")}}
    (folder / "test_it.py").write_text(f"CASE = {facts!r}\n{BENCHMARKS}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-json=saved.json", "test_it.py"]
    # As its own session: pytest-benchmark is off inside a worker of xdist, which it tells by the environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120, env=environment)
    return folder / "saved.json"


def test_benchmark_files_are_runs(benchmark_file: Path) -> None:
    run = records.load(benchmark_file)
    (record,) = run.records
    (one,) = record.rounds
    assert record.case == RECORD.case
    assert record.status == "ok"
    assert one.phases is not None
    assert {phase: len(timing.samples_s) for phase, timing in one.phases.items()} == {"forward": 7, "step": 5}
    assert (one.memory, one.macs, one.machine) == (RECORD.rounds[0].memory, RECORD.rounds[0].macs, samples.MACHINE)
    assert len(run.problems) == 1
    assert "test_something_else" in run.problems[0]


def test_benchmark_files_without_samples_or_cut_short_are_refused(benchmark_file: Path, tmp_path: Path) -> None:
    contents = json.loads(benchmark_file.read_text())
    for entry in contents["benchmarks"]:
        del entry["stats"]["data"]
    (tmp_path / "bare.json").write_text(json.dumps(contents))
    (tmp_path / "half.json").write_bytes(benchmark_file.read_bytes()[:500])
    with pytest.raises(LipbenchError, match="--benchmark-json"):
        records.load(tmp_path / "bare.json")
    with pytest.raises(LipbenchError, match=r"half\.json"):
        records.load(tmp_path / "half.json")
