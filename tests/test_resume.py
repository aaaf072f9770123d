"""A run killed in the middle loses the round in flight and nothing else; two that write one run at once lose nothing at all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from lipbench.store import records

COMMAND = [sys.executable, "-m", "lipbench.cli", "profile", "--retries", "0"]
SIZES = ["--method", "standard,aol,sll", "--channels", "2,3", "--image-size", "4", "--batch-size", "2", "--threads", "1",
         "--phase-seconds", "0.01", "--rounds", "1", "--device", "cpu"]  # fmt: skip
CASES = 6
PATIENCE_S = 240


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "records").glob("[!.]*.json")}


def test_kill_and_resume(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen([*COMMAND, *SIZES, "--out", str(run)], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE_S
        while len(contents(run)) < 2 or not (children := psutil.Process(process.pid).children(recursive=True)):
            assert time.monotonic() < end
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, "the measuring process outlived its parent"
    finished = contents(run)
    assert 2 <= len(finished) < CASES
    standing = records.load_run(run)  # nothing is unreadable
    assert all(record.status == "ok" and record.finished for record in standing.records)
    assert len(standing.problems) == 2  # cases that have not run, and those that have and are not certified

    # What a kill between writing and renaming leaves behind is looked at by nobody.
    (run / "records" / ".half.json.1.tmp").write_text('{"schema": 1, "ca')
    subprocess.run([*COMMAND, "--out", str(run), "--resume"], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    resumed = records.load_run(run)
    assert len(resumed.records) == CASES
    assert resumed.problems == ()
    assert all(record.status == "ok" for record in resumed.records)
    before = {record.case: record.rounds for record in standing.records}
    assert {record.case: record.rounds for record in resumed.records if record.case in before} == before
    assert all(record.macs and record.certificate for record in resumed.records)

    untouched = contents(run)
    subprocess.run([*COMMAND, "--out", str(run), "--resume"], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    assert contents(run) == untouched


def together(*commands: list[str]) -> list[int]:
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    return [process.wait(PATIENCE_S) for process in processes]


def test_two_processes_write_one_run_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*COMMAND, *SIZES, "--channels", "2", "--out", str(run), "--resume", "--method"]
    assert together([*command, "standard,aol"], [*command, "sll,aol"]) == [0, 0]
    found = records.load_run(run)
    assert {case.spec.method for case in found.plan.cases} == {"standard", "aol", "sll"}
    assert {record.case for record in found.records} == set(found.plan.cases)
    assert len(found.records) == 3
    assert found.problems == ()
    assert all(record.status == "ok" for record in found.records)
    assert all(len(record.rounds) == len(record.examinations) == 1 for record in found.records)

    # Both go on with what both know of, and keep what there was.
    before = {record.case: record.rounds for record in found.records}
    go_on = [*COMMAND, "--out", str(run), "--resume", "--rounds", "2"]
    assert together(go_on, go_on) == [0, 0]
    found = records.load_run(run)
    assert found.problems == ()
    assert all(record.status == "ok" and len(record.rounds) == 2 for record in found.records)
    assert {record.case: record.rounds[: len(before[record.case])] for record in found.records} == before
    assert [path.name for path in (run / "records").glob(".*")] == []


def test_of_two_new_runs_in_one_directory_one_is_refused(tmp_path: Path) -> None:
    command = [*COMMAND, *SIZES, "--out", str(tmp_path / "run"), "--channels", "2", "--method"]
    assert sorted(together([*command, "standard"], [*command, "aol"])) == [0, 2]
    found = records.load_run(tmp_path / "run")
    assert len(found.plan.cases) == len(found.records) == 1
    assert found.problems == ()
