"""Resumed runs: which cases come first, on which GPU, and which parts of them are measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lipbench.errors import LipbenchError
from lipbench.run import profiling
from lipbench.run.executor import Place, Wanted
from lipbench.run.plan import Request, conditions
from lipbench.run.profiling import LimitOptions, Options
from lipbench.store import records
from lipbench.store.rounds import Part, Record, Round, summed_up

SIZES: dict[str, Any] = {"channels": (2,), "image_sizes": (4,), "batch_sizes": (2,)}
CORES = 7


class Answers:
    """A stand-in for the executor of a machine with or without a GPU."""

    def __init__(self, gpu: str | None) -> None:
        self.gpu = gpu
        self.asked: list[str] = []
        self.devices: list[str] = []

    def survey(self, wanted: Wanted) -> Place:
        self.devices.append(wanted.device)
        if wanted.device == "cuda" and self.gpu is None:
            raise LipbenchError("no CUDA")
        return Place("cuda", self.gpu, CORES) if self.gpu and wanted.device != "cpu" else Place("cpu", None, CORES)

    def run_round(self, case: Any, limits: Any, parts: Sequence[str], failed: Sequence[str]) -> Round:
        self.asked.append(f"{case.spec.method} {case.device} {' '.join(parts[-2:])}")
        return summed_up(Round("ok", parts=dict.fromkeys(parts, Part())))

    def stop(self) -> None:
        raise AssertionError("it is another's to stop")


def profile(answers: Answers, out: Path, *methods: str, resume: bool = False, threads: int | None = 1, **more: Any) -> None:
    named = {**SIZES, "conditions": conditions(threads=None if threads is None else (threads,))}
    request = Request(methods=methods or None, **(named if methods else {}))
    options = Options(request, "auto", LimitOptions(rounds=1), out=out, resume=resume, **more)
    profiling.profile(options, "lipbench profile", executor=answers)


def test_what_is_asked_for_comes_first_and_stays_behind_in_the_plan(tmp_path: Path) -> None:
    answers = Answers(None)
    profile(answers, tmp_path / "run", "standard", "aol", deadline_s=1e-9)
    answers = Answers(None)
    profile(answers, tmp_path / "run", "soc", resume=True)
    assert [one.split()[0] for one in answers.asked[:3]] == ["soc", "standard", "aol"]
    plan = records.load_run(tmp_path / "run").plan
    assert [case.spec.method for case in plan.cases] == ["standard", "aol", "soc"]
    assert plan.out == str(tmp_path / "run")


def test_a_run_is_not_resumed_on_another_gpu(tmp_path: Path) -> None:
    answers = Answers("H100")
    profile(answers, tmp_path / "run", "standard")
    answers = Answers("A100")
    with pytest.raises(LipbenchError, match=r"started on H100.*got A100; choose another --out"):
        profile(answers, tmp_path / "run", "aol", resume=True)
    assert len(records.load_run(tmp_path / "run").plan.cases) == 1
    answers = Answers("H100")
    profile(answers, tmp_path / "run", "aol", resume=True)
    assert len(records.load_run(tmp_path / "run").plan.cases) == 2


def test_certificates_of_a_gpus_cases_are_found_without_it(tmp_path: Path) -> None:
    answers = Answers("H100")
    profile(answers, tmp_path / "run", "standard", measure=("time", "memory"))
    answers = Answers(None)
    with pytest.raises(LipbenchError, match="no CUDA"):
        profile(answers, tmp_path / "run", resume=True)
    profile(answers, tmp_path / "run", resume=True, measure=("certificate",))
    assert answers.asked == ["standard cpu certificate"]
    run = records.load_run(tmp_path / "run")
    assert run.plan.measure == ("time", "memory", "certificate")
    assert run.problems == ()


def test_a_resumed_run_measures_the_same_parts(tmp_path: Path) -> None:
    answers = Answers(None)
    profile(answers, tmp_path / "run", "standard", measure=("macs",))
    assert answers.asked == ["standard cpu macs"]
    profile(answers, tmp_path / "run", resume=True)
    assert answers.asked == ["standard cpu macs"]
    with pytest.raises(
        LipbenchError, match="unknown thing to measure: got 'taste'; choose from certificate, macs, memory, time"
    ):
        profile(answers, tmp_path / "run", resume=True, measure=("taste",))
    record: Record = records.load_run(tmp_path / "run").records[0]
    assert (record.rounds, record.status, record.finished) == ((), "ok", True)


@pytest.mark.parametrize(("asked", "threads"), [(None, CORES), (3, 3)])
def test_cases_have_a_thread_for_each_core_where_they_are_measured(tmp_path: Path, asked: int | None, threads: int) -> None:
    profile(Answers(None), tmp_path / "run", "standard", threads=asked)
    assert [case.threads for case in records.load_run(tmp_path / "run").plan.cases] == [threads]
