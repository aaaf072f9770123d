"""Workers that share a run directory: everything is measured, nothing twice, and one that ends or is killed blocks nobody."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lipbench.store import records

WORKER = Path(__file__).with_name("sharing_worker.py")
CASES, ROUNDS = 40, 2
PATIENCE_S = 120


def start(run: Path, log: Path, seconds: float, count: int = 1) -> list[subprocess.Popen[str]]:
    """Workers that begin together."""
    command = [sys.executable, str(WORKER), str(run), str(log), str(seconds)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return workers


def lines(log: Path, what: str) -> list[list[str]]:
    """(begins or ends, round or examination, case id, process) of each thing that was asked of an executor."""
    return [line.split() for line in log.read_text().splitlines() if line.startswith(what)] if log.exists() else []


def wait_for(log: Path, count: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while len(lines(log, "begins")) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def check(run: Path, log: Path) -> None:
    """All was measured, and what was brought to its end was begun once."""
    found = records.load_run(run)
    assert found.problems == ()
    assert len(found.records) == CASES
    assert all((len(one.rounds), len(one.examinations), one.status) == (ROUNDS, 1, "ok") for one in found.records)
    ended = Counter((what, case) for _, what, case, _ in lines(log, "ends"))
    assert ended == {(what, one.case.id): n for one in found.records for what, n in (("round", ROUNDS), ("examination", 1))}
    assert not (run / "claims").exists()


@pytest.mark.parametrize("count", [2, 4])
def test_workers_measure_forty_cases_and_nothing_twice(tmp_path: Path, count: int) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    workers = start(run, log, 0.02, count)
    said = [worker.communicate(timeout=PATIENCE_S)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count
    assert said == [f"{CASES} cases: {CASES} ok\n"] * count  # each tells of all, whoever measured it
    check(run, log)
    begun = lines(log, "begins")
    assert len(begun) == CASES * (ROUNDS + 1)
    assert len({process for _, what, _, process in begun if what == "round"}) == count
    # Interleaved: second rounds begin when no first one is left to be begun.
    order = [case for _, what, case, _ in begun if what == "round"]
    assert len(set(order[:CASES])) >= CASES - count


def test_a_killed_worker_blocks_nobody_and_a_live_one_is_waited_for(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    (killed,) = start(run, log, 600)
    wait_for(log, 1)
    (slow,) = start(run, log, 2)
    wait_for(log, 2)
    (quick,) = start(run, log, 0.001)
    time.sleep(1)
    killed.kill()
    for worker in (slow, quick):
        assert worker.communicate(timeout=PATIENCE_S)[0] == f"{CASES} cases: {CASES} ok\n"
    killed.communicate()
    check(run, log)
    cut_short = next(case for _, _, case, process in lines(log, "begins") if process == str(killed.pid))
    assert Counter(case for _, what, case, _ in lines(log, "begins") if what == "round")[cut_short] == ROUNDS + 1


def test_ctrl_c_takes_the_claim_away(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    (worker,) = start(run, log, 600)
    wait_for(log, 1)
    assert len(list((run / "claims").iterdir())) == 1
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode != 0
    assert not (run / "claims").exists()
