"""`bench/gpu.sh` on a CPU: what it writes, what its end says, and what is left if it is killed. Times are not looked at.

A rehearsal of all stages takes minutes; here single stages run. `bash bench/gpu.sh` is rehearsed whole before it is used.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import samples

from bench import gpu_summary
from lipbench.store.rounds import Part, Record, Round, summed_up

ROOT = Path(__file__).parents[1]
TINY = {"DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "BUDGET_S": "900"}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is for bash")


def start(mode: str, out: Path, **settings: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **TINY, "OUT": str(out), **settings}
    command = ["bash", str(ROOT / "bench" / "gpu.sh"), mode]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def names(archive: Path) -> set[str]:
    with tarfile.open(archive) as content:
        return set(content.getnames())


def test_a_stage_leaves_its_output_and_an_end_that_says_what_is_broken(tmp_path: Path) -> None:
    process = start("smoke", tmp_path / "out", STAGES="machine", WHEELS=str(tmp_path / "none"))
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert printed.splitlines()[-2] == "nothing is broken"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"smoke.tar.gz", "smoke.txt"}
    assert {"smoke/machine.txt", "smoke/stages.txt", "smoke/summary.txt"} <= names(tmp_path / "out" / "smoke.tar.gz")


def test_wheels_that_cannot_be_installed_end_nothing(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "nothing-1.0-py3-none-any.whl").write_bytes(b"no wheel")
    process = start("smoke", tmp_path / "out", STAGES="machine", WHEELS=str(tmp_path / "wheels"))
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1, printed
    assert "going on without them" in printed
    assert "smoke/machine.txt" in names(tmp_path / "out" / "smoke.tar.gz")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_in_the_middle_of_a_stage_leaves_what_was_finished(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    process = start("smoke", out, STAGES="machine methods", WHEELS=str(tmp_path / "none"))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("== methods"):
            break
    time.sleep(1)
    process.send_signal(number)
    process.stdout.close()
    assert process.wait(timeout=60) != 0
    assert "smoke/machine.txt" in names(out / "smoke.tar.gz")


def test_wrong_use_is_one_line() -> None:
    process = start("everything", ROOT)
    printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed.count("\n")) == (2, 1)
    assert "give smoke or full" in printed


def test_the_end_has_what_failed_most_telling_first_and_at_most_ten_lines(tmp_path: Path) -> None:
    (tmp_path / "stages.txt").write_text(
        "machine: exit code 0 after 3 s\nkernels: exit code 1 after 9 s\nmethods: exit code 3 after 5 s\n"
        "memory: not begun, 2 s were left\n"
    )
    (tmp_path / "kernels.txt").write_text('{"equal": true}\n{"equal": false, "a": 1}\n{"equal": false, "a": 2}\n{"wrong": 2}\n')
    full = summed_up(Round("ok", parts={"training": Part("out_of_memory", "no more"), "inference": Part()}))
    records = [Record(samples.case(channels=width), 1, (full,)) for width in (2, 4)]
    records += [Record(samples.case("soc", width), 1, (Round("crashed", f"SIG{width}"),)) for width in range(1, 10)]
    samples.save_run(tmp_path / "run", records)
    found, noted = gpu_summary.summary(tmp_path)
    assert noted == ["memory: not begun, 2 s were left"]
    assert found[:3] == [
        "kernels: exit code 1 after 9 s",
        'kernels: 2 lines, the first: {"equal": false, "a": 1}',
        f"2 × out_of_memory: training: no more (as {samples.case(channels=2).id})",
    ]
    assert len(found) == gpu_summary.MOST_LINES
    assert found[-1] == "and 3 more: see the archive"
    assert gpu_summary.summary(tmp_path / "nothing") == ([], [])
