"""A run in the interpreter: results as anywhere, and times that say what they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lipbench.analysis.rows import measured_rows
from lipbench.cases import TRITON
from lipbench.store import records

SMALL = ("--method", "aol", "--channels", "4", "--image-size", "4", "--batch-size", "2", "--phase-seconds", "0.01",
         "--rounds", "1", "--threads", "1", "--implementation", f"paper,{TRITON}")  # fmt: skip


def lipbench(*arguments: str, interpret: bool, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "lipbench.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_a_run_says_that_it_was_interpreted(tmp_path: Path) -> None:
    done = lipbench("profile", *SMALL, "--device", "cpu", "--out", "run", interpret=True, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run = records.load_run(tmp_path / "run")
    paper, triton = sorted(run.records, key=lambda record: record.case.spec.implementation)
    assert (paper.status, triton.status) == ("ok", "ok")
    assert "interpreted" not in [one.kind for one in paper.rounds[0].warnings]
    assert "interpreted" in [one.kind for one in triton.rounds[0].warnings]
    rows = measured_rows(run)
    assert dict(zip(rows["implementation"], rows["interpreted"])) == {"paper": False, TRITON: True}
    certificates = dict(zip(rows["implementation"], rows["certificate"]))
    assert certificates[TRITON] == pytest.approx(certificates["paper"], abs=1e-5)
    assert lipbench("report", "run", interpret=False, folder=tmp_path).returncode == 0


def test_without_interpreter_and_gpu_it_is_wrong_use(tmp_path: Path) -> None:
    done = lipbench("profile", *SMALL, "--device", "cpu", "--out", "run", interpret=False, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "implementation triton needs a CUDA device" in done.stderr
    assert not (tmp_path / "run").exists()
