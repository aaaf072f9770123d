"""Claims on cases: only one worker gets a claim; it ends when the work is stored; a dead worker's claim blocks no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import samples

from lipbench.store import claims
from lipbench.store.claims import GRACE_S, Owner, claimed, holders, renew

CASE, OTHER = samples.case("aol"), samples.case("soc")
HOLDS = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import samples
from lipbench.store.claims import claimed
with claimed(Path({directory!r}), samples.case("aol"), 300.0) as is_own:
    print(is_own, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a claim on `CASE`."""
    program = HOLDS.format(tests=str(Path(__file__).parent), directory=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def is_free(directory: Path) -> bool:
    with claimed(directory, CASE, 1.0) as is_own:
        return is_own


def write(directory: Path, owner: Owner) -> Path:
    path = directory / "claims" / f"{CASE.id}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(owner)))
    return path


def test_a_claim_stands_for_its_block_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with claimed(tmp_path, CASE, 1.0) as is_own, claimed(tmp_path, OTHER, 1.0) as another:
        assert (is_own, another) == (True, True)
        assert not is_free(tmp_path)
        assert [owner.process_id for owner in holders(tmp_path)] == [os.getpid()] * 2
        assert all(owner.is_here for owner in holders(tmp_path))
    assert holders(tmp_path) == ()
    assert not (tmp_path / "claims").exists()
    assert is_free(tmp_path)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_claim_goes_with_its_block_however_that_ends(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), claimed(tmp_path, CASE, 1.0):
        raise error
    assert is_free(tmp_path)


def test_a_live_claim_of_another_process_is_respected(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert not is_free(tmp_path)
    assert [owner.process_id for owner in holders(tmp_path)] == [holder.pid]


@pytest.mark.parametrize("noticed", [False, True], ids=["a zombie", "gone"])
def test_a_claim_of_a_killed_process_is_taken_over_at_once(
    tmp_path: Path, holder: subprocess.Popen[str], noticed: bool
) -> None:
    holder.kill()
    if noticed:
        holder.wait()
    end = time.monotonic() + 60
    while not noticed and psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
    assert holders(tmp_path) == ()
    assert is_free(tmp_path)


def test_a_process_under_the_number_of_a_dead_one_is_not_its_heir(tmp_path: Path) -> None:
    with claimed(tmp_path, OTHER, 1.0):
        (own,) = holders(tmp_path)
    write(tmp_path, Owner(own.machine, os.getpid(), "1", time.time() + 1000))
    assert is_free(tmp_path)


@pytest.mark.parametrize(("left_s", "free"), [(100.0, False), (-1.0, True)])
def test_a_claim_of_another_machine_is_in_force_until_it_runs_out(tmp_path: Path, left_s: float, free: bool) -> None:
    write(tmp_path, Owner("elsewhere", os.getpid(), "1", time.time() + left_s))
    assert not any(owner.is_here for owner in holders(tmp_path))
    assert is_free(tmp_path) == free


def test_a_claim_runs_out_after_the_time_that_its_round_may_take(tmp_path: Path) -> None:
    before = time.time()
    with claimed(tmp_path, CASE, 50.0):
        (owner,) = holders(tmp_path)
    assert before + 50.0 + GRACE_S <= owner.until <= time.time() + 50.0 + GRACE_S


@pytest.mark.parametrize(("age_s", "free"), [(0.0, False), (GRACE_S + 60, True)])
def test_half_a_claim_is_one_for_a_while(tmp_path: Path, age_s: float, free: bool) -> None:
    path = write(tmp_path, Owner("elsewhere", 1, "1", 0.0))
    path.write_text('{"machine": "else')
    os.utime(path, (time.time() - age_s,) * 2)
    assert is_free(tmp_path) == free


def test_a_claim_that_was_taken_over_is_not_taken_away(tmp_path: Path) -> None:
    with claimed(tmp_path, CASE, 1.0):
        path = tmp_path / "claims" / f"{CASE.id}.json"
        path.write_text(json.dumps(asdict(Owner("elsewhere", 1, "1", time.time() + 100))))
    assert not is_free(tmp_path)


def test_without_locks_a_claim_is_exclusive_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers check for a claim before either writes one."""
    with claimed(tmp_path, CASE, 1.0) as is_own:
        monkeypatch.setattr(claims, "_owner", lambda path: None)
        assert is_own
        assert not is_free(tmp_path)
        monkeypatch.undo()
        assert len(holders(tmp_path)) == 1


def test_a_claim_that_is_no_file_or_nonsense_blocks_for_a_while_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, Owner(claims._machine(), 10**17, "", 0.0)).parent
    os.mkfifo(folder / "pipe.json")
    (folder / "endless.json").symlink_to("/dev/zero")
    (folder / "folder.json").mkdir()
    (folder / "circle.json").symlink_to(folder / "circle.json")
    assert not any(owner.is_here for owner in holders(tmp_path))
    assert is_free(tmp_path)


def test_a_lock_that_is_a_pipe_waits_for_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    assert is_free(tmp_path)


def test_a_claim_is_renewed_by_its_owner_alone(tmp_path: Path) -> None:
    with claimed(tmp_path, CASE, 1.0):
        renew(tmp_path, CASE, 5000.0)
        (owner,) = holders(tmp_path)
        assert owner.until > time.time() + 4000.0
        other = Owner("elsewhere", 1, "1", time.time() + 100)
        (tmp_path / "claims" / f"{CASE.id}.json").write_text(json.dumps(asdict(other)))
        renew(tmp_path, CASE, 5000.0)
        assert holders(tmp_path) == (other,)
    renew(tmp_path, OTHER, 5000.0)
    assert holders(tmp_path) == (other,)


def test_a_renewed_claim_goes_with_its_block(tmp_path: Path) -> None:
    with claimed(tmp_path, CASE, 1.0):
        renew(tmp_path, CASE, 5000.0)
    assert not (tmp_path / "claims").exists()
