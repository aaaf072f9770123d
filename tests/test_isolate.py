"""Whatever happens to the process of a round becomes its status.

The layers that make it happen are in `faulty_layers`; most of them meet in one run in `test_faults`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lipbench import cases
from lipbench.cases import Case, LayerSpec, Limits
from lipbench.cores import usable_cores
from lipbench.errors import LipbenchError
from lipbench.quantities import GROUPS, PARTS
from lipbench.run import isolate
from lipbench.run.executor import Place, Wanted
from lipbench.run.processes import FORK, START, Ending, Processes
from lipbench.store.rounds import Part, Round

HERE = Path(__file__).parent
QUICKLY = Limits(phase_seconds=0.01, timeout_s=120.0)


Run = Callable[..., Round]


@pytest.fixture(autouse=True)
def _layers_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


@pytest.fixture(params=[FORK, START])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Measures a round of a layer, in a process that is forked and in one that is started."""
    with Processes(request.param) as processes:

        def measured(layer: str, limits: Limits = QUICKLY, parts: tuple[str, ...] = tuple(GROUPS), **sizes: int) -> Round:
            spec = LayerSpec(layer, **{"channels": 2, "image_size": 4, **sizes})
            return isolate.run_round(processes, Case(spec, batch_size=2), limits, parts)

        yield measured


def is_alive(process_id: int) -> bool:
    return psutil.pid_exists(process_id) and psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE


def test_a_round_that_works_brings_everything_back(run: Run) -> None:
    one = run("standard", parts=PARTS)
    assert (one.status, one.reason) == ("ok", "")
    assert one.started.endswith("+00:00")
    assert one.duration_s > 0
    assert one.phases is not None
    assert set(one.phases) == {"forward", "backward", "step", "parametrize", "inference", "first_inference"}
    assert one.memory is not None
    assert one.macs is not None
    assert one.certificate is not None
    assert one.parts == dict.fromkeys(PARTS, Part())
    assert one.machine is not None
    assert one.machine.flags["torch_threads"] == "1"


def test_layers_of_others_are_measured_too(run: Run) -> None:
    one = run("faulty_layers:Plain", Limits(phase_seconds=0.01, timeout_s=1e9))  # more than the system can wait
    assert one.status == "ok"
    assert one.phases is not None
    assert set(one.phases) == {"forward", "backward", "step", "inference"}


def test_a_layer_that_is_not_there_is_unsupported(run: Run) -> None:
    one = run("faulty_layers:Absent")
    assert one.status == "unsupported"
    assert "faulty_layers:Absent" in one.reason
    assert "\n" not in one.reason


def test_sizes_that_a_method_cannot_take_are_unsupported(run: Run) -> None:
    one = run("cayley", kernel_size=5)
    assert one.status == "unsupported"
    assert "kernel 5 and image 4" in one.reason


@pytest.mark.parametrize(("memory_bytes", "status"), [(None, "ok"), (2**32, "out_of_memory")])
def test_running_into_the_memory_limit_is_out_of_memory(run: Run, memory_bytes: int | None, status: str) -> None:
    assert run("faulty_layers:Allocates", Limits(0.01, 120.0, memory_bytes)).status == status


def test_a_limit_too_small_to_begin_with_is_out_of_memory_too(run: Run) -> None:
    assert run("standard", Limits(0.01, 120.0, memory_bytes=2**28)).status == "out_of_memory"


def test_a_time_out_ends_the_process_and_what_it_started(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("LIPBENCH_TEST_PIDS", str(pids))
    one = run("faulty_layers:Sleeps", Limits(0.01, timeout_s=20.0))
    assert one.status == "timeout"
    assert "20 s" in one.reason
    process_ids = list(map(int, pids.read_text().split()))
    assert len(process_ids) == 2
    assert not any(map(is_alive, process_ids))


@pytest.mark.parametrize("fresh", [FORK, START])
def test_the_child_ends_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: str) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("LIPBENCH_TEST_PIDS", str(pids))
    program = (
        "from lipbench import cases\nfrom lipbench.run import local\n"
        "case = cases.Case(cases.LayerSpec('faulty_layers:Sleeps', 2, 4), 2)\n"
        f"local.Local({fresh!r}).run_round(case, cases.Limits(timeout_s=500), ['inference'])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        _wait_for(pids.exists)
    finally:
        parent.kill()
        parent.wait()
    child, grandchild = map(int, pids.read_text().split())
    os.kill(grandchild, signal.SIGKILL)
    _wait_for(lambda: not is_alive(child))


def test_a_child_whose_parent_is_gone_already_measures_nothing(tmp_path: Path) -> None:
    question = {"case": cases.to_dict(Case(LayerSpec("aol", 2, 4), 2)), "limits": {}, "parts": ["step"], "failed": []}
    command = [sys.executable, "-m", "lipbench.run.child", str(tmp_path / "answer.json"), str(2**22 + 1)]  # above any process
    child = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True)
    assert (child.returncode, child.stderr) == (1, "the parent has ended\n")
    assert not (tmp_path / "answer.json").exists()


def _wait_for(condition: object, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("code", "stderr", "killed_for_memory", "status"),
    [
        (-signal.SIGKILL, "", True, "out_of_memory"),
        (-signal.SIGKILL, "", False, "crashed"),
        (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc", False,
         "out_of_memory"),
        (-signal.SIGABRT, "double free or corruption", True, "crashed"),
        (1, "libgomp: Thread creation failed: Resource temporarily unavailable", False, "out_of_memory"),
        (1, "ImportError: libtorch_cpu.so: failed to map segment from shared object", False, "out_of_memory"),
        (1, "ImportError: no such thing", False, "raised"),
        (0, "", False, "raised"),
    ],
)  # fmt: skip
def test_a_process_without_a_result_is_judged_by_how_it_ended(
    code: int, stderr: str, killed_for_memory: bool, status: str
) -> None:
    ending = Ending(code, timed_out=False, answer=None, stderr=stderr)
    one, left = isolate.judge(ending, Limits(), killed_for_memory)
    assert (one.status, left) == (status, ())


@pytest.mark.parametrize("told", [{}, {"status": "splendid"}, {"status": "ok", "surprise": 1}, {"status": "ok", "phases": 3}])
@pytest.mark.parametrize(
    "places", [{"doing": None, "left": []}, {}, {"doing": "nothing", "left": []}, {"doing": None, "left": 3}]
)
def test_an_answer_that_is_no_round_is_none(told: dict[str, object], places: dict[str, object]) -> None:
    answer = {"round": told, **places}
    one, left = isolate.judge(Ending(0, timed_out=False, answer=answer, stderr=""), Limits(), False)
    assert (one.status, one.reason, left) == ("raised", "ended with exit code 0 and no result", ())


def test_what_a_process_found_before_its_end_stays_known() -> None:
    told = {"round": {"status": "ok", "parts": {"training": {}}}, "doing": "step", "left": ["inference"]}
    one, left = isolate.judge(Ending(-signal.SIGSEGV, timed_out=False, answer=told, stderr=""), Limits(), False)
    assert one.parts == {"training": Part(), "step": Part("crashed", "ended by SIGSEGV")}
    assert (one.status, one.reason, left) == ("crashed", "step: ended by SIGSEGV", ("inference",))


def test_what_a_layer_cannot_do_costs_it_nothing_else(run: Run) -> None:
    """It dies in training: the rest is measured in other processes, which know of it."""
    one = run("faulty_layers:SegfaultsInTraining", parts=PARTS)
    assert (one.status, one.reason) == ("crashed", "training, step, macs: ended by SIGSEGV")
    assert one.phases is not None
    assert one.memory is not None
    assert set(one.phases) == set(one.memory.peaks) == {"inference"}
    assert one.certificate is not None
    assert one.certificate.evaluation
    assert one.certificate.training == ()


def test_parts_that_no_child_gets_to_end_as_the_last_child_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first child dies of its first part, and the second cannot build the layer any more."""
    told = {"round": {"status": "ok", "parts": {}}, "doing": "training", "left": ["step", "inference"]}
    endings = [Ending(-11, False, told, ""), Ending(1, False, None, "MemoryError")]
    monkeypatch.setattr(Processes, "ask", lambda *_: endings.pop(0))
    one = isolate.run_round(Processes(), Case(LayerSpec("aol", 2, 4), 2), QUICKLY, ("training", "step", "inference"))
    assert {name: part.status for name, part in one.parts.items()} == {
        "training": "crashed", "step": "out_of_memory", "inference": "out_of_memory",
    }  # fmt: skip


def test_time_that_is_used_up_is_used_up_for_what_comes_after() -> None:
    case = Case(LayerSpec("faulty_layers:OversleepsInTraining", 2, 4), 2)
    with Processes(FORK) as processes:
        isolate.run_round(processes, Case(LayerSpec("aol", 2, 4), 2), QUICKLY, ("inference",))  # starts the server
        one = isolate.run_round(processes, case, Limits(0.01, timeout_s=8.0), tuple(GROUPS))
    assert (one.status, one.reason) == ("timeout", "no result within 8 s; raise --timeout")
    assert one.parts["step"].reason == one.parts["inference"].reason == "not started within 8 s; raise --timeout"


def test_the_survey_answers_for_the_device_and_refuses_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with Processes() as processes:
        assert isolate.survey(processes, Wanted(["aol", "faulty_layers:Plain"], ["paper"], "auto")) == Place(
            "cpu", None, usable_cores(), FORK
        )
        for methods, implementations, device, named in (
            (["nope"], ["paper"], "cpu", "nope"),
            (["faulty_layers:Absent"], ["paper"], "cpu", "Absent"),
            (["faulty_layers:time"], ["paper"], "cpu", "cannot be called"),
            (["aol"], ["paper", "splendid"], "cpu", "splendid"),
            (["aol"], ["paper"], "cuda", "CUDA"),
        ):
            with pytest.raises(LipbenchError, match=named):
                isolate.survey(processes, Wanted(methods, implementations, device))


def test_the_process_that_plans_and_stores_imports_no_torch() -> None:
    program = "import sys, lipbench.run.profiling; print(sorted({'torch', 'pandas', 'sympy'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed == "[]\n"
