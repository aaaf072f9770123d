"""Records on disk: written whole, read back equal, and named where they are damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import samples

from lipbench import cases
from lipbench.analysis.rows import measured_rows
from lipbench.cases import Case, Limits, NetworkSpec
from lipbench.errors import LipbenchError
from lipbench.quantities import Bound, Certificate, Contention
from lipbench.store import benchmark_json, records
from lipbench.store.rounds import SCHEMA, Record, Round
from lipbench.store.run_plan import RunPlan, load_plan, save_plan

TIMINGS = {"forward": samples.timing(0.001, 0.0012, 0.0011), "step": samples.timing(0.003, 0.0031, host_s=(0.004, 0.005))}
RECORD = Record(samples.case(), 2, (samples.ok(TIMINGS, warnings=("one", "two")), samples.ok(TIMINGS, first=False)))


def test_what_is_saved_is_read_back_equal(tmp_path: Path) -> None:
    network = Record(Case(NetworkSpec("aol", "XS"), 4, "float64"), 2, (Round("timeout", "too slow"),))
    run = records.load_run(samples.save_run(tmp_path, [RECORD, network]))
    assert run.records == (RECORD, network)
    assert run.plan.cases == (RECORD.case, network.case)
    assert run.problems == ()
    assert run.plan.rounds == 2


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
    run = records.load_run(tmp_path)
    problems = run.problems
    assert len(problems) == 2
    assert (run.unreadable, run.unfinished, run.begun) == ((), (missing.id,), (begun.case.id,))
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
def test_half_written_records_are_named_and_the_others_read(tmp_path: Path, length: int) -> None:
    other = replace(RECORD, case=samples.case("aol"))
    samples.save_run(tmp_path, [RECORD, other])
    path = records.record_path(tmp_path, RECORD.case)
    path.write_bytes(path.read_bytes()[:length])
    run = records.load_run(tmp_path)
    assert run.records == (other,)
    assert run.plan.cases == (RECORD.case, other.case)
    (problem,) = run.problems  # not also among those that have not run
    assert (run.unreadable, run.unfinished) == ((problem,), ())
    assert problem.startswith(f"not a readable record: got {path} (")
    assert "--resume" in problem
    with pytest.raises(LipbenchError, match=path.name):
        records.load_record(path)


@pytest.mark.parametrize(
    "damage",
    [
        {"rounds": [{"status": "splendid"}]},
        {"rounds": [{"status": "ok", "surprise": 1}]},
        {"rounds": [{"status": "ok", "phases": {"forward": {"samples_s": ["1"]}}}]},
        {"rounds": [{"status": "ok", "phases": {"forward": {"samples_s": [True]}}}]},
        {"rounds": [{"status": "ok", "phases": {"forward": {"samples_s": []}}}]},
        {"rounds": [{"status": "ok", "phases": {"forward": {"samples_s": [float("nan")]}}}]},
        {"rounds": [{"status": "ok", "duration_s": -1.0}]},
        {"rounds": [{"status": "ok", "duration_s": 10**400}]},
        {"rounds": [{"status": "ok", "started": "yesterday"}]},
        {"rounds": [{"status": "ok", "reason": "x" * 1_000_001}]},
        {"rounds": [{"status": "ok", "macs": {"phases": {"step": 2**64}, "by_operation": {}}}]},
        {"rounds": 3},
        {"rounds": {}},
        {"examinations": None},
        {"case": {**cases.to_dict(RECORD.case), "seed": [1]}},
        {"case": {**cases.to_dict(RECORD.case), "kind": "poem"}},
        {"case": {**cases.to_dict(RECORD.case), "spec": {"method": "aol", "channels": 10**12, "image_size": 8}}},
        {"rounds_wanted": float("inf")},
        {"case": {}},
        {"case": {**cases.to_dict(RECORD.case), "batch_size": 0}},
        {"case": cases.to_dict(samples.case("aol"))},
        {"schema": None},
        {"schema": SCHEMA + 1},
    ],
)
def test_damaged_records_are_named_on_one_line(tmp_path: Path, damage: dict[str, object]) -> None:
    samples.save_run(tmp_path, [RECORD, replace(RECORD, case=samples.case("soc"))])
    path = records.record_path(tmp_path, RECORD.case)
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    run = records.load_run(tmp_path)
    assert [record.case.spec.method for record in run.records] == ["soc"]
    (problem,) = run.problems
    assert path.name in problem
    assert "\n" not in problem


def test_what_lies_among_records_and_is_none_is_named_and_not_fatal(tmp_path: Path) -> None:
    samples.save_run(tmp_path, [RECORD])
    folder = tmp_path / "records"
    whole = records.record_path(tmp_path, RECORD.case).read_bytes()
    (folder / "copy of it.json").write_bytes(whole)
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "empty.json").write_text(" ")
    (folder / "folder.json").mkdir()
    (folder / "list.json").write_text("[1, 2]")
    (folder / "nowhere.json").symlink_to(tmp_path / "absent")
    (folder / "notes.txt").write_text("mine")
    os.mkfifo(folder / "pipe.json")
    (folder / "endless.json").symlink_to("/dev/zero")
    with (folder / "vast.json").open("wb") as file:
        file.truncate(2**31)  # without blocks on the disk
    (folder / "twice.json").write_text('{"schema": 4, "schema": 4}')
    (folder / os.fsdecode(b"no text \xff.json")).write_text("{}")
    (folder / "other.json").write_text('{"benchmarks": []}')
    (folder / "picture.png").write_bytes(b"\x89PNG\xff")
    (folder / ".0123456789abcdef.tmp").write_bytes(whole[:100])  # a write cut short is nobody's concern
    (tmp_path / "report.html").write_text("beside it, one may keep what one likes")
    run = records.load_run(tmp_path)
    assert run.records == (RECORD,)
    why = {
        "copy of it.json": RECORD.case.id, "deep.json": "recursion", "empty.json": "(empty)", "endless.json": "a pipe, device",
        "folder.json": "directory", "list.json": "JSON list", r"no text \udcff.json": "schema", "notes.txt": "Expecting value",
        "nowhere.json": "No such file", "other.json": "schema", "picture.png": "not text", "pipe.json": "a pipe, device",
        "twice.json": "the key 'schema' occurs twice", "vast.json": "2147483648 bytes, more than",
    }  # fmt: skip
    assert len(run.problems) == len(why)
    for problem, (name, reason) in zip(run.problems, why.items()):
        assert name in problem
        assert reason in problem
        assert "\n" not in problem


@pytest.mark.parametrize(
    "plan", [None, "", '{"schema": 1, "ca', "[]", '{"cases": []}', '{"schema": 1, "cases": [{"kind": "layer"}]}',
             '{"schema": 1, "cases": 3}', '{"schema": 1, "command": 3}', '{"schema": 1, "rounds": "2"}',
             '{"schema": 1, "limits": {"patience_s": 1}}', '{"schema": 1, "measure": [1]}',
             '{"schema": 1, "limits": []}', f'{{"schema": {SCHEMA + 1}}}'],
)  # fmt: skip
def test_a_run_without_a_plan_is_its_records(tmp_path: Path, plan: str | None) -> None:
    run, bare = samples.save_run(tmp_path / "run", [RECORD]), samples.save_run(tmp_path / "bare", [], [RECORD.case])
    for directory in (run, bare):
        (directory / "run.json").unlink()
        if plan is not None:
            (directory / "run.json").write_text(plan)
    found = records.load_run(run)
    assert (found.records, found.plan) == ((RECORD,), RunPlan())
    (problem,) = found.problems
    assert "run.json" in problem
    for directory in (run, bare):
        with pytest.raises(LipbenchError, match=r"run\.json"):
            load_plan(directory)
    with pytest.raises(LipbenchError, match=r"run\.json"):
        records.load_run(bare)


def test_a_plan_is_added_to_and_keeps_how_the_run_began(tmp_path: Path) -> None:
    first, second = samples.case("aol"), samples.case("soc")
    save_plan(tmp_path, RunPlan(command="one", rounds=2, gpu="H100", cases=(first,)), new=True)
    save_plan(tmp_path, RunPlan(command="two", out="there", rounds=3, cases=(second, first)))
    plan = load_plan(tmp_path)
    assert plan == RunPlan(command="one", out="there", rounds=3, gpu="H100", cases=(first, second))
    with pytest.raises(LipbenchError, match="--resume"):
        save_plan(tmp_path, RunPlan(command="three"), new=True)
    assert load_plan(tmp_path) == plan


def test_what_is_no_field_of_a_plan_stays_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1, "note": "mine", "started": "2026-01-02", "rounds": 2}')
    save_plan(tmp_path, RunPlan(started="2026-01-03", rounds=3))
    values = json.loads((tmp_path / "run.json").read_text())
    assert (values["schema"], values["note"], values["started"], values["rounds"]) == (SCHEMA, "mine", "2026-01-02", 3)


def test_the_plan_of_an_older_program_has_defaults_for_what_it_did_not_write() -> None:
    plan = load_plan(Path(__file__).parent / "data" / "schema1" / "layers")
    assert (plan.started, plan.version, plan.preset, plan.rounds) == ("2026-11-27T17:10:01+00:00", "0.1.0", "quick", 2)
    assert plan.limits == Limits(phase_seconds=0.005)
    assert len(plan.cases) == 8
    assert (plan.out, plan.measure, plan.fresh, plan.gpu) == ("", (), "", None)


UNBOUNDED = Certificate((Bound(float("nan"), None, "lower bound", "ascent", 8, float("inf")),), ())


def test_rounds_are_added_to_what_is_stored(tmp_path: Path) -> None:
    samples.save_run(tmp_path, [RECORD])
    failed, again = Round("timeout", "slow"), replace(samples.ok({}), certificate=UNBOUNDED)
    longer = records.add_round(tmp_path, replace(RECORD, rounds=()), failed)
    assert longer.rounds == (*RECORD.rounds, failed)
    records.add_round(tmp_path, longer, again, [failed])
    merged = records.add_round(tmp_path, longer, failed, [failed, again])
    assert merged.rounds == (*RECORD.rounds, failed)
    assert records.load_run(tmp_path).records == (merged,)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("[1, 2]")
    (tmp_path / "other.json").write_text("{}")
    for name in ("absent", "empty", "text.json", "other.json"):
        with pytest.raises(LipbenchError, match=name):
            benchmark_json.load(tmp_path / name)


BENCHMARKS = """
def test_layer(benchmark):
    benchmark.extra_info.update(CASE, phase="forward")
    benchmark.pedantic(sum, args=([1, 2],), rounds=7)

def test_layer_step(benchmark):
    benchmark.extra_info.update(CASE, phase="step", contention=SEEN)
    benchmark.pedantic(sum, args=([1, 2],), rounds=5)

def test_something_else(benchmark):
    benchmark.pedantic(sum, args=([1, 2],), rounds=3)
"""


SEEN = Contention(0.9, 0.2, 3, contended=True)


@pytest.fixture(scope="module")
def benchmark_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file written by pytest-benchmark itself."""
    folder = tmp_path_factory.mktemp("bench")
    record = records.round_to_dict(RECORD.rounds[0])
    facts = {"case": cases.to_dict(RECORD.case), **{name: record[name] for name in ("memory", "macs", "machine")}}
    (folder / "test_it.py").write_text(f"CASE = {facts!r}\nSEEN = {asdict(SEEN)!r}\n{BENCHMARKS}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-json=saved.json", "test_it.py"]
    # As its own session: pytest-benchmark is off inside a worker of xdist, which it tells by the environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120, env=environment)
    return folder / "saved.json"


def test_benchmark_files_are_runs(benchmark_file: Path) -> None:
    run = benchmark_json.load(benchmark_file)
    (record,) = run.records
    (one,) = record.rounds
    assert record.case == RECORD.case
    assert record.status == "ok"
    assert one.phases is not None
    assert {phase: len(timing.samples_s) for phase, timing in one.phases.items()} == {"forward": 7, "step": 5}
    assert (one.memory, one.macs, one.machine) == (RECORD.rounds[0].memory, RECORD.rounds[0].macs, samples.MACHINE)
    assert {phase: timing.contention for phase, timing in one.phases.items()} == {"forward": None, "step": SEEN}
    contended = measured_rows(run).set_index("phase")["contended"]
    assert pd.isna(contended["forward"])  # nobody looked, which is not the same as nobody there
    assert contended["step"]
    assert one.warnings == (benchmark_json.ONE_PROCESS,)
    assert len(run.problems) == 1
    assert "test_something_else" in run.problems[0]


def test_a_folder_of_benchmark_files_has_a_round_for_each(benchmark_file: Path, tmp_path: Path) -> None:
    for name in ("0001.json", "0002.json"):
        (tmp_path / name).write_bytes(benchmark_file.read_bytes())
    (tmp_path / "0003.json").write_text("{")
    run = benchmark_json.load(tmp_path)
    (record,) = run.records
    assert (len(record.rounds), record.rounds[0].warnings) == (2, ())
    assert any("0003.json" in problem for problem in run.problems)


def test_benchmark_files_without_samples_or_cut_short_are_refused(benchmark_file: Path, tmp_path: Path) -> None:
    contents = json.loads(benchmark_file.read_text())
    for entry in contents["benchmarks"]:
        del entry["stats"]["data"]
    (tmp_path / "bare.json").write_text(json.dumps(contents))
    (tmp_path / "half.json").write_bytes(benchmark_file.read_bytes()[:500])
    with pytest.raises(LipbenchError, match="--benchmark-json"):
        benchmark_json.load(tmp_path / "bare.json")
    with pytest.raises(LipbenchError, match=r"half\.json"):
        benchmark_json.load(tmp_path / "half.json")


def test_texts_of_a_record_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    """They are escaped when they are read; line breaks stay."""
    told = replace(RECORD, rounds=(Round("raised", "\x1b]0;title\x07 a\nb \ud800 \u202e \x9b31m"),))
    found = records.load_run(samples.save_run(tmp_path, [told])).records[0].reason
    assert found == r"\x1b]0;title\x07 a" + "\n" + r"b \ud800 \u202e \x9b31m"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_plan_that_is_no_file_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    run = samples.save_run(tmp_path, [RECORD])
    (run / "run.json").unlink()
    make(run / "run.json")
    found = records.load_run(run)
    assert found.records == (RECORD,)
    assert "run.json" in found.problems[0]
    for used in (lambda: save_plan(run, RunPlan()), lambda: load_plan(run), lambda: benchmark_json.load(run / "run.json")):
        with pytest.raises(LipbenchError, match=r"run\.json"):
            used()


def test_a_problem_names_the_field(tmp_path: Path) -> None:
    path = records.record_path(samples.save_run(tmp_path, [RECORD]), RECORD.case)
    values = json.loads(path.read_text())
    values["rounds"][1]["phases"]["step"]["samples_s"] = []
    path.write_text(json.dumps(values))
    assert f"{path} (rounds[1].phases['step'].samples_s is empty)" in records.load_run(tmp_path).problems[0]


def test_a_damaged_benchmark_is_named_and_the_others_are_read(benchmark_file: Path, tmp_path: Path) -> None:
    contents = json.loads(benchmark_file.read_text())
    contents["benchmarks"][0]["stats"]["data"] = [0.1, -0.1]
    (tmp_path / "saved.json").write_text(json.dumps(contents))
    run = benchmark_json.load(tmp_path / "saved.json")
    assert list(run.records[0].rounds[0].phases or ()) == ["step"]
    assert "benchmark 0: samples_s[1] is -0.1" in run.problems[1]
