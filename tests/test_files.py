"""Files that several processes write at once: each is whole, and no change made under the lock is lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import samples

from lipbench.cases import Case
from lipbench.store import files, records
from lipbench.store.rounds import Record, Round
from lipbench.store.run_plan import RunPlan, load_plan, save_plan

WRITERS, TURNS = 4, 12


def planned(writer: int) -> list[Case]:
    """Cases of one writer's own, and one that all have."""
    return [samples.case("soc"), *(samples.case("aol", 1 + writer * TURNS + turn) for turn in range(TURNS))]


def write_run(directory: Path, writer: int) -> None:
    for turn, case in enumerate(planned(writer)):
        save_plan(directory, RunPlan(rounds=1, cases=(case,)))
        records.add_round(directory, Record(case, 1), Round("ok", f"writer {writer}"))
        records.add_round(directory, Record(samples.case("soc"), 1), Round("ok", f"writer {writer}, turn {turn}"))


def overwrite(path: Path, writer: int) -> None:
    for _ in range(TURNS * 4):
        files.write_file(path, json.dumps([writer] * 20_000))


def at_once(work: Callable[[Path, int], None], path: Path) -> list[multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(path, writer)) for writer in range(WRITERS)]
    for process in processes:
        process.start()
    return processes


def join(processes: list[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def test_writers_of_one_run_lose_neither_cases_nor_rounds(tmp_path: Path) -> None:
    join(at_once(write_run, tmp_path))
    run = records.load_run(tmp_path)
    assert set(run.plan.cases) == {record.case for record in run.records} == {c for w in range(WRITERS) for c in planned(w)}
    assert run.problems == ()
    (shared,) = (record for record in run.records if record.case.spec.method == "soc")
    assert len(shared.rounds) == WRITERS * (TURNS + 2)
    assert len({one.reason for one in shared.rounds}) == WRITERS * (TURNS + 2)
    assert [name for name in os.listdir(tmp_path / "records") if name.startswith(".")] == []


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    files.write_file(path, "[0]")
    processes = at_once(overwrite, path)
    while any(process.is_alive() for process in processes):
        assert len(set(json.loads(path.read_text()))) == 1
    join(processes)
    assert os.listdir(tmp_path) == ["file.json"]


def test_two_writers_of_one_number_do_not_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on two hosts: while one has written and not yet renamed, the other does both."""
    synchronise = os.fsync

    def other_first(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", synchronise)
        files.write_file(tmp_path / "file", "other")
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", other_first)
    monkeypatch.setattr(os, "getpid", lambda: 7)
    files.write_file(tmp_path / "file", "one")
    assert (tmp_path / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    pipe, target, link = tmp_path / "pipe", tmp_path / "target", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_file(pipe, "into the pipe")
    assert os.read(reader, 100) == b"into the pipe"
    assert pipe.is_fifo()
    os.close(reader)
    link.symlink_to(target)
    for content in ("new", "newer"):
        files.write_file(link, content)
        assert (link.is_symlink(), target.read_text()) == (True, content)


@pytest.mark.parametrize(("number", "goes_on"), [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_file_systems_without_locks_do_for_one_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, goes_on: bool
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    if goes_on:
        samples.save_run(tmp_path, [])
        assert load_plan(tmp_path).cases == ()
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            samples.save_run(tmp_path, [])
