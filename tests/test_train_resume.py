"""A training that was stopped and resumed is bit for bit the one that was not: weights, optimizer, state and random numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lipbench import errors, registry
from lipbench.cases import ExternalNetworkSpec
from lipbench.meters import peaks
from lipbench.quantities import Peak
from lipbench.train import checkpoints, records, trainer
from lipbench.train.checkpoints import Checkpoint
from lipbench.train.task import Budget, Point, TrainingCase, TrainingRecord

STEPS, STOPPED = 6, 3
TIMES = {"seconds", "loading_seconds", "record"}
"""values of a checkpoint that differ between equal trainings"""
NETWORKS = [f"trained_networks:small(method={name!r})" for name in registry.METHODS] + ["trained_networks:Restless"]


class StopError(Exception):
    pass


@pytest.fixture(autouse=True)
def _without_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory is not the subject here, and the profiler takes longer than these trainings."""

    def run(stages: list[peaks.Stage], held_bytes: int) -> dict[str, Peak]:
        for _, _, step in stages:
            step()
        return {phase: Peak(held_bytes, 0) for phase, _, _ in stages}

    monkeypatch.setattr(peaks, "on_cpu", run)


def case_of(name: str, unit: str = "steps", amount: float = STEPS) -> TrainingCase:
    budget = Budget(unit, amount)  # type: ignore[arg-type]  # a unit
    return TrainingCase(ExternalNetworkSpec(name, 8), "digits", budget, 0.1, 1e-3, batch_size=256)


def last_checkpoint(
    case: TrainingCase, folder: Path, *, resume: bool = False, stop_at: int = -1
) -> tuple[Checkpoint, TrainingRecord]:
    """Train, and return the last checkpoint that was written, with the record."""
    found: list[Checkpoint] = []

    def watch(record: TrainingRecord) -> None:
        path = folder / checkpoints.FILE
        if path.exists():
            found[:] = [checkpoints.read(path)]
        if record.steps == stop_at:
            raise StopError

    record = trainer.train(case, folder, resume=resume, watch=watch, evaluate_part=None, every_s=0)
    return found[0], record


def without_times(curve: tuple[Point, ...]) -> list[Point]:
    return [replace(point, seconds=0) for point in curve]


def require_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
    assert {name: value for name, value in one.values.items() if name not in TIMES} == {
        name: value for name, value in other.values.items() if name not in TIMES
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_resumed_training_equals_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    case = case_of(name)
    whole, record = last_checkpoint(case, tmp_path / "whole")
    assert record.status == "ok", record.reason
    with pytest.raises(StopError):
        last_checkpoint(case, tmp_path / "parts", stop_at=STOPPED)
    resumed, found = last_checkpoint(case, tmp_path / "parts", resume=True)
    require_equal(whole, resumed)
    assert without_times(record.curve) == without_times(found.curve)
    assert (found.steps, found.interruptions, found.status) == (STEPS, 1, "ok")
    assert (tmp_path / "whole" / checkpoints.WEIGHTS).read_bytes() == (tmp_path / "parts" / checkpoints.WEIGHTS).read_bytes()


PROGRAM = """
import sys
from pathlib import Path
from lipbench.train import records, trainer
case = records.read(Path(sys.argv[1])).case
trainer.train(case, Path(sys.argv[2]), evaluate_part=None, every_s=0)
"""


def test_process_killed_at_any_moment_loses_nothing_but_time(tmp_path: Path) -> None:
    case = case_of("trained_networks:small(method='soc')", "epochs", 6)
    (tmp_path / "case").mkdir()
    records.write(TrainingRecord(case, "running"), tmp_path / "case")
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "case"), str(folder)], stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _steps(folder) > 3:
            time.sleep(0.01)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    killed = records.read(folder)
    assert killed.status == "running"
    assert 3 < killed.steps < 36
    resumed, found = last_checkpoint(case, folder, resume=True)
    whole, _ = last_checkpoint(case, tmp_path / "whole")
    require_equal(whole, resumed)
    assert found.seconds > killed.seconds


def _steps(folder: Path) -> int:
    return records.read(folder).steps if (folder / records.FILE).exists() else 0


def test_budget_in_seconds_goes_on_with_the_time_used(tmp_path: Path) -> None:
    case = case_of("trained_networks:Restless", "seconds", 0.5)
    with pytest.raises(StopError):
        last_checkpoint(case, tmp_path, stop_at=STOPPED)
    used = checkpoints.read(tmp_path / checkpoints.FILE).values["seconds"]
    assert 0 < used < 0.5
    started = time.perf_counter()
    record = trainer.train(case, tmp_path, resume=True, evaluate_part=None)
    assert record.status == "ok"
    assert record.seconds - used < time.perf_counter() - started
    assert record.seconds > used


# --------------------------------------------------------------------------------------------------------- damaged checkpoints


class Bomb:
    """What a malicious pickle would do when it is read."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, ("touch executed",)


def damaged(folder: Path, how: str) -> None:
    path = folder / checkpoints.FILE
    good = checkpoints.read(path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickle":
        torch.save(Bomb(), path)
    elif how == "foreign":
        import safetensors.torch

        safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    elif how == "huge header":
        path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    elif how == "shapes":
        checkpoints.write(path, {name: torch.zeros(3) for name in good.tensors}, good.values)
    elif how == "no random state":
        checkpoints.write(path, good.part("module/"), good.values)
    elif how == "values":
        checkpoints.write(path, good.tensors, {**good.values, "random": {"numpy": "x", "python": [3, [10**30], 1]}})
    elif how == "other case":
        other = replace(records.read(folder), case=case_of("trained_networks:Restless", amount=99))
        checkpoints.write(path, good.tensors, {**good.values, "record": records.to_dict(other)})


HOW = ["truncated", "empty", "pickle", "foreign", "huge header", "shapes", "no random state", "values", "other case"]


@pytest.mark.parametrize("how", HOW)
def test_damaged_checkpoints_are_one_line_and_execute_nothing(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case = case_of("trained_networks:Restless")
    with pytest.raises(StopError):
        last_checkpoint(case, tmp_path / "run", stop_at=STOPPED)
    damaged(tmp_path / "run", how)
    with pytest.raises(errors.LipbenchError, match="not a readable checkpoint") as raised:
        trainer.train(case, tmp_path / "run", resume=True, evaluate_part=None)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "executed").exists()
    assert records.read(tmp_path / "run").status == "running"
