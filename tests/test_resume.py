"""A run killed in the middle loses the round in flight and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from lipbench import records

COMMAND = [sys.executable, "-m", "lipbench.cli", "profile"]
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
    assert len(standing.problems) == 1

    # What a kill between writing and renaming leaves behind is looked at by nobody.
    (run / "records" / ".half.json.1.tmp").write_text('{"schema": 1, "ca')
    subprocess.run([*COMMAND, "--out", str(run), "--resume"], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    resumed = records.load_run(run)
    assert len(resumed.records) == CASES
    assert resumed.problems == ()
    assert all(record.status == "ok" for record in resumed.records)
    assert {name: contents(run)[name] for name in finished} == finished

    before = contents(run)
    subprocess.run([*COMMAND, "--out", str(run), "--resume"], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    assert contents(run) == before
