"""A forked process is as fresh as a started one: its state is the same, what it finds is the same, and it takes as long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import fork_agreement
from lipbench.cases import Case, LayerSpec, Limits
from lipbench.quantities import GROUPS, PARTS
from lipbench.run import forks, isolate
from lipbench.run.executor import StoppedError
from lipbench.run.processes import FORK, START, Processes
from lipbench.store.rounds import Round

HERE = Path(__file__).parent
QUICKLY = Limits(phase_seconds=0.01, timeout_s=120.0)


@pytest.fixture(autouse=True)
def _layers_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


def states(folder: Path, monkeypatch: pytest.MonkeyPatch, fresh: str, rounds: int) -> list[dict[str, object]]:
    """What `probing_layer` saw of the processes of some rounds of one server."""
    path = folder / fresh
    monkeypatch.setenv("LIPBENCH_TEST_STATE", str(path))
    case = Case(LayerSpec("probing_layer:Probe", 2, 4), 2)
    with Processes(fresh) as processes:
        for _ in range(rounds):
            assert isolate.run_round(processes, case, QUICKLY, ("inference",)).status == "ok"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_forked_process_has_the_state_of_a_started_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (started,) = states(tmp_path, monkeypatch, START, 1)
    first, second = states(tmp_path, monkeypatch, FORK, 2)
    for one in (first, second):
        differing = {name for name in started if one[name] != started[name]}
        assert differing == {"process", "drawn", "modules", "state_file"}
        assert set(started["modules"]) <= set(one["modules"])  # type: ignore[call-overload]
    assert len({one["process"] for one in (started, first, second)}) == 3
    assert len({tuple(one["drawn"]) for one in (started, first, second)}) == 3  # type: ignore[arg-type]


def test_the_server_only_imports() -> None:
    program = (
        "import os, sys, json; from lipbench.run import forks; forks.prepare()\n"
        "import torch\n"
        "names = [open(f'/proc/self/task/{one}/comm').read().strip() for one in os.listdir('/proc/self/task')]\n"
        "drivers = sorted({line.split('/')[-1].strip() for line in open('/proc/self/maps') if 'libcuda.so' in line})\n"
        "print(json.dumps([torch.cuda.is_initialized(), drivers, len(names), 'probing_layer' in sys.modules]))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}  # its threads it takes down itself
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    initialised, drivers, threads, external = json.loads(printed.stdout)
    assert not initialised
    assert drivers == []
    assert threads == 1
    assert not external


@pytest.mark.parametrize("method", ["soc", "cpl"])
def test_forked_rounds_find_what_started_ones_find(method: str) -> None:
    """Power iterations, caches and the allocator start anew, in the second round of a server too."""
    case = Case(LayerSpec(method, 3, 6), 4)
    found: list[Round] = []
    for fresh, rounds in ((START, 1), (FORK, 2)):
        with Processes(fresh) as processes:
            found += [isolate.run_round(processes, case, QUICKLY, PARTS) for _ in range(rounds)]
    assert [one.status for one in found] == ["ok"] * 3
    for one in found[1:]:
        assert (one.memory, one.macs, one.certificate) == (found[0].memory, found[0].macs, found[0].certificate)
        assert one.machine is not None
        assert found[0].machine is not None
        assert one.machine.flags == {**found[0].machine.flags, "process": FORK}
        assert replace(one.machine, flags={}) == replace(found[0].machine, flags={})


def test_a_server_that_ends_is_replaced_by_started_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "IMPORTED", ("no.such.module",))
    monkeypatch.setattr(forks.Server, "_read", _ended)
    with Processes(FORK) as processes:
        assert isolate.run_round(processes, Case(LayerSpec("aol", 2, 4), 2), QUICKLY, ("inference",)).status == "ok"


def _ended(server: forks.Server, timeout_s: float) -> dict[str, object]:
    raise forks.ServerEndedError("gone")


def test_a_server_answers_again_after_a_child_that_died_and_one_that_was_late(tmp_path: Path) -> None:
    with Processes(FORK) as processes:
        isolate.run_round(processes, Case(LayerSpec("aol", 2, 4), 2), QUICKLY, ("inference",))  # starts the server
        endings = [
            isolate.run_round(processes, Case(LayerSpec(name, 2, 4), 2), Limits(0.01, timeout_s=15.0), ("inference",)).status
            for name in ("faulty_layers:Segfaults", "faulty_layers:Oversleeps", "aol")
        ]
    assert endings == ["crashed", "timeout", "ok"]


def test_answers_that_come_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A child that ends before the parent looks: both lines of the server lie in the pipe."""
    server = forks.Server({"OMP_NUM_THREADS": "1"})
    try:
        question = {"methods": ["nope"], "implementations": [], "device": "cpu"}
        paths = {"answer": str(tmp_path / "answer"), "stderr": str(tmp_path / "stderr"), "scratch": str(tmp_path)}
        server._send({"question": question, **paths})
        time.sleep(3)
        assert set(server._read(0.0)) == {"pid"}
        assert set(server._read(60.0)) == {"code"}
    finally:
        server.close()


def test_a_child_that_does_not_end_is_left_to_the_end_of_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_kill", lambda process_id: None)
    monkeypatch.setattr(forks, "END_TIMEOUT_S", 0.1)
    case = Case(LayerSpec("faulty_layers:Oversleeps", 2, 4), 2)
    with Processes(FORK) as processes:
        assert isolate.run_round(processes, case, Limits(0.01, timeout_s=1.0), ("inference",)).status == "timeout"
        monkeypatch.undo()
        assert isolate.run_round(processes, Case(LayerSpec("aol", 2, 4), 2), QUICKLY, ("inference",)).status == "ok"


def test_what_is_stopped_asks_nothing_more() -> None:
    with Processes(FORK) as processes:
        processes.stop()
        with pytest.raises(StoppedError):
            isolate.run_round(processes, Case(LayerSpec("aol", 2, 4), 2), QUICKLY, ("inference",))


# ------------------------------------------------------------------------------------------------------------- as long as it


def pairs(shift: float, turns: int = 11, seed: int = 0) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed).normal(0, 0.02, (6, turns))
    noise[3] += shift
    return dict(zip("abcdef", noise))


def test_the_comparison_sees_one_phase_that_is_slower_and_no_other() -> None:
    """Six phases, one of them slower by 8 % with rounds that spread by 2 %; equals are told apart as rarely as they should."""
    assert fork_agreement.probability(pairs(0.08)) < fork_agreement.LEVEL
    chances = [fork_agreement.probability(pairs(0.0, turns=8, seed=seed)) for seed in range(200)]
    assert 0.4 < float(np.mean(np.array(chances) < 0.5)) < 0.6
    assert float(np.mean(np.array(chances) < 0.05)) < 0.1


def test_forked_rounds_take_as_long_as_started_ones() -> None:
    """No time is asserted: turns of both kinds, among whatever else runs, differ no more than chance lets equals differ."""
    case = Case(LayerSpec("aol", 16, 8), 8)
    found = fork_agreement.measure(case, 10, Limits(phase_seconds=0.05), fork_agreement.KINDS[:2])
    differing = fork_agreement.differences(found["forked"], found["started"])
    assert set(differing) == {phase for phases in GROUPS.values() for phase in phases}
    assert fork_agreement.probability(differing) >= fork_agreement.LEVEL, found
