"""What a run is gone on with: which cases come first, on which GPU, and what of them is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lipbench.errors import LipbenchError
from lipbench.run import isolate, profiling, schedule
from lipbench.run.isolate import Place
from lipbench.run.plan import Request
from lipbench.run.profiling import LimitOptions, Options
from lipbench.store import records
from lipbench.store.rounds import Part, Record, Round, summed_up

SIZES: dict[str, Any] = {"channels": (2,), "image_sizes": (4,), "batch_sizes": (2,), "threads": 1}


class Answers:
    """Stands for the processes of a machine with a GPU, or without."""

    def __init__(self, gpu: str | None) -> None:
        self.fresh, self.gpu = "fork", gpu
        self.asked: list[str] = []
        self.devices: list[str] = []

    def __call__(self, fresh: str) -> Answers:
        return self

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def survey(
        self, methods: Sequence[str], implementations: Sequence[str], device: str, threads: int, networks: Sequence[str]
    ) -> Place:
        self.devices.append(device)
        if device == "cuda" and self.gpu is None:
            raise LipbenchError("no CUDA")
        return Place("cuda", self.gpu) if self.gpu and device != "cpu" else Place("cpu")

    def run_round(self, case: Any, limits: Any, parts: Sequence[str], failed: Sequence[str]) -> Round:
        self.asked.append(f"{case.spec.method} {case.device} {' '.join(parts[-2:])}")
        return summed_up(Round("ok", parts=dict.fromkeys(parts, Part())))

    def renew(self) -> None:
        pass

    stop = renew


def on(monkeypatch: pytest.MonkeyPatch, gpu: str | None) -> Answers:
    answers = Answers(gpu)
    monkeypatch.setattr(isolate, "Processes", answers)
    monkeypatch.setattr(schedule, "Processes", answers)
    return answers


def profile(out: Path, *methods: str, resume: bool = False, **more: Any) -> None:
    request = Request(methods=methods or None, **(SIZES if methods else {}))
    profiling.profile(Options(request, "auto", LimitOptions(rounds=1), out=out, resume=resume, **more), "lipbench profile")


def test_what_is_asked_for_comes_first_and_stays_behind_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, None)
    profile(tmp_path / "run", "standard", "aol", deadline_s=1e-9)
    answers = on(monkeypatch, None)
    profile(tmp_path / "run", "soc", resume=True)
    assert [one.split()[0] for one in answers.asked[:3]] == ["soc", "standard", "aol"]
    assert [case.spec.method for case in records.load_run(tmp_path / "run").planned] == ["standard", "aol", "soc"]


def test_a_run_is_not_gone_on_with_on_another_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "H100")
    profile(tmp_path / "run", "standard")
    on(monkeypatch, "A100")
    with pytest.raises(LipbenchError, match=r"begun on H100.*got A100; choose another --out"):
        profile(tmp_path / "run", "aol", resume=True)
    assert len(records.load_run(tmp_path / "run").planned) == 1
    on(monkeypatch, "H100")
    profile(tmp_path / "run", "aol", resume=True)
    assert len(records.load_run(tmp_path / "run").planned) == 2


def test_certificates_of_a_gpus_cases_are_found_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "H100")
    profile(tmp_path / "run", "standard", measure=("time", "memory"))
    answers = on(monkeypatch, None)
    with pytest.raises(LipbenchError, match="no CUDA"):
        profile(tmp_path / "run", resume=True)
    profile(tmp_path / "run", resume=True, measure=("certificate",))
    assert answers.asked == ["standard cpu certificate"]
    run = records.load_run(tmp_path / "run")
    assert run.meta["measure"] == ["time", "memory", "certificate"]
    assert run.problems == ()


def test_what_was_measured_before_is_what_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = on(monkeypatch, None)
    profile(tmp_path / "run", "standard", measure=("macs",))
    assert answers.asked == ["standard cpu macs"]
    profile(tmp_path / "run", resume=True)
    assert answers.asked == ["standard cpu macs"]
    with pytest.raises(
        LipbenchError, match="unknown thing to measure: got 'taste'; choose from certificate, macs, memory, time"
    ):
        profile(tmp_path / "run", resume=True, measure=("taste",))
    record: Record = records.load_run(tmp_path / "run").records[0]
    assert (record.rounds, record.status, record.finished) == ((), "ok", True)
