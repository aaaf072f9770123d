"""Layers that go wrong in every way there is, in one run: as many records, each with its reason, and the run ends well.

The status `predicted` is not here: nothing that measures gives it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lipbench.analysis import document
from lipbench.analysis.rows import measured_rows
from lipbench.store import records
from lipbench.store.records import Run
from lipbench.store.rounds import STATUSES, Record

HERE = Path(__file__).parent
SIZES = ("--channels", "2", "--image-size", "4", "--batch-size", "2", "--threads", "1", "--device", "cpu",
         "--phase-seconds", "0.01", "--rounds", "1")  # fmt: skip
HEADROOM_BYTES = 2**29
"""address space that a layer may take: what takes it all is soon stopped"""
PLAIN = """
from lipbench import cases
from lipbench.run import measure
case = cases.Case(cases.LayerSpec("faulty_layers:Plain", 2, 4), 2)
print(measure.measure(case, cases.Limits(phase_seconds=0.01)).status)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmPeak")))
"""
EXPECTED = {
    "Plain": ("ok", ""),
    "LeavesAProcess": ("ok", ""),
    "Raises": ("raised", "ValueError: the tensor is of no use"),
    "RaisesAtOnce": ("raised", "RuntimeError: 2 channels are none that this layer likes"),
    "RaisesOnTheWayBack": ("raised", "ArithmeticError: there is no way back"),
    "Interrupts": ("raised", "KeyboardInterrupt"),
    "Recurses": ("raised", "RecursionError: maximum recursion depth exceeded"),
    "ReturnsText": ("unsupported", "must return one tensor"),
    "Talks": ("raised", "ValueError: the point"),
    "Exits": ("raised", "SystemExit: enough"),
    "EndsAtOnce": ("raised", "ended with exit code 7 and no result: written before the end"),
    "EndsWell": ("raised", "ended with exit code 0 and no result"),
    "Forges": ("raised", "ended with exit code 0 and no result"),
    "Destroys": ("raised", "ended with exit code 1 and no result: FileNotFoundError"),
    "Refuses": ("unsupported", "give it a million"),
    "Segfaults": ("crashed", "ended by SIGSEGV"),
    "SegfaultsInTraining": ("crashed", "training, step: ended by SIGSEGV"),
    "Aborts": ("crashed", "ended by SIGABRT"),
    "DividesByZero": ("crashed", "ended by SIGFPE"),
    "IsKilled": ("crashed", "ended by SIGKILL"),
    "NotFinite": ("nan", "not finite: output in training"),
    "NotFiniteOnTheWayBack": ("nan", "not finite: gradient of the input"),
    "NotFiniteInEvaluation": ("nan", "not finite: output in evaluation"),
    "Doubles": ("not_lipschitz", "2"),
    "IsALittleTooSteep": ("not_lipschitz", "1.001"),
    "Allocates": ("out_of_memory", "can't allocate memory"),
    "AllocatesInTraining": ("out_of_memory", "training, step: RuntimeError: [enforce fail at alloc_cpu.cpp"),
    "AllocatesBitByBit": ("out_of_memory", "can't allocate memory"),
    "AllocatesInNumpy": ("out_of_memory", "Unable to allocate"),
    "AllocatesInPython": ("out_of_memory", "MemoryError"),
    "Oversleeps": ("timeout", "no result within"),
    "Deadlocks": ("timeout", "no result within"),
}


def need_of_a_plain_round(environment: dict[str, str]) -> tuple[float, int]:
    """Seconds and bytes of address space that a round takes on this machine now, if nothing is wrong with it."""
    start = time.monotonic()
    command = [sys.executable, "-c", PLAIN]
    status, peak_kib = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
    assert status == "ok"
    return time.monotonic() - start, int(peak_kib) * 1024


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, subprocess.CompletedProcess[str], Path]:
    """The run, how its process ended, and the file with the numbers of a layer's process and of the one it left behind."""
    folder = tmp_path_factory.mktemp("faults")
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "LIPBENCH_TEST_PIDS": str(folder / "pids")}
    seconds, address_space = need_of_a_plain_round(environment)
    # Time enough on a machine that becomes several times slower meanwhile; two layers use all of it.
    limits = ("--timeout", f"{5 + 4 * seconds:.0f}", "--memory-limit", str(address_space + HEADROOM_BYTES))
    methods = ",".join(f"faulty_layers:{name}" for name in EXPECTED)
    command = [
        sys.executable,
        "-m",
        "lipbench.cli",
        "profile",
        "--retries",
        "0",
        "--out",
        str(folder / "run"),
        "--method",
        methods,
    ]
    process = subprocess.run([*command, *SIZES, *limits], env=environment, capture_output=True, text=True)
    return records.load_run(folder / "run"), process, folder / "pids"


def by_layer(run: Run) -> dict[str, Record]:
    return {record.case.spec.method.removeprefix("faulty_layers:"): record for record in run.records}


def test_every_layer_has_its_record_with_its_status_and_reason(
    finished: tuple[Run, subprocess.CompletedProcess[str], Path],
) -> None:
    run, _, _ = finished
    found = by_layer(run)
    assert len(found) == len(run.records) == len(EXPECTED) >= 20
    assert {name: record.status for name, record in found.items()} == {name: status for name, (status, _) in EXPECTED.items()}
    for name, (_, reason) in EXPECTED.items():
        assert reason in found[name].reason
        assert "\n" not in found[name].reason
        assert len(found[name].rounds) == 1
    assert run.problems == ()


def test_what_does_not_fit_to_train_has_its_inference_in_record_export_and_report(
    finished: tuple[Run, subprocess.CompletedProcess[str], Path],
) -> None:
    run, _, _ = finished
    record = by_layer(run)["AllocatesInTraining"]
    assert {name: part.status for name, part in record.parts.items()} == {
        "training": "out_of_memory", "step": "out_of_memory", "inference": "ok", "memory": "ok", "macs": "ok",
        "certificate": "ok", "formulas": "ok", "prediction": "ok",
    }  # fmt: skip
    assert record.macs is not None
    assert set(record.macs.phases) == {"inference"}
    rows = measured_rows(run)
    own = rows[rows["method"] == "faulty_layers:AllocatesInTraining"].set_index("phase")
    assert list(own.index) == ["forward", "backward", "step", "inference"]
    assert list(own["status"]) == ["out_of_memory"] * 3 + ["ok"]
    assert own["median_s"].notna().tolist() == [False, False, False, True]
    assert own.loc["inference", "peak_memory_bytes"] > 0
    assert own["certificate"].notna().all()
    page = document.document(run)
    failed = page.partition('id="failures"')[2].partition("</section>")[0]
    assert "forward, backward, step" in failed
    assert "can&#39;t allocate memory" in failed
    measured = page.partition('id="failures"')[0]
    assert "AllocatesInTraining" in measured


def test_the_run_ends_and_says_how_each_case_did(finished: tuple[Run, subprocess.CompletedProcess[str], Path]) -> None:
    run, process, _ = finished
    assert process.returncode == 3
    assert all(re.match(r"lipbench: \d+:\d\d \d+/64 done, ", line) for line in process.stderr.splitlines()), process.stderr
    directory, counted, *lines = process.stdout.splitlines()
    assert directory == str(run.path)
    statuses = [status for status, _ in EXPECTED.values()]
    present = [f"{statuses.count(status)} {status}" for status in STATUSES if status in statuses]
    assert counted == f"{len(EXPECTED)} cases: {', '.join(present)}"
    failed = [record for record in run.records if record.status != "ok"]
    assert lines[: lines.index("")] == [f"  {record.status}: {record.case.id}: {record.reason}" for record in failed]


def test_every_status_of_a_measurement_has_a_cause_here() -> None:
    """`skipped` needs a smaller size that ran out of memory: see the tests of the command line."""
    assert {status for status, _ in EXPECTED.values()} == set(STATUSES) - {"skipped"}


def test_what_a_layer_leaves_behind_is_ended(finished: tuple[Run, subprocess.CompletedProcess[str], Path]) -> None:
    for process_id in map(int, finished[2].read_text().split()):
        assert not psutil.pid_exists(process_id) or psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
