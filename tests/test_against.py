"""Two versions in alternating rounds: the turns, another interpreter, another commit, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import samples

from lipbench import external
from lipbench.analysis.counterparts import counterparts, matched
from lipbench.cases import Case, LayerSpec
from lipbench.errors import LipbenchError
from lipbench.quantities import Contention
from lipbench.run import against, worktree
from lipbench.run.against import Order, Side, alternate, kept
from lipbench.store import records
from lipbench.store.records import Run
from lipbench.store.rounds import Part, Record, Round
from lipbench.store.run_plan import RunPlan, save_plan

CASE = Case(LayerSpec("aol", 4, 6), 2)
HELP = "--method --resume --rounds --out --retries --deadline"
LAYER = """
import torch
def layer(channels, image_size, kernel_size):
    return torch.nn.Conv2d(channels, channels, {kernel}, padding="same", bias=False)
"""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was measured, as (name, turn); each round is stored as if its version had been run."""
    calls: list[tuple[str, int]] = []

    def measure(side: Side, turn: int, deadline: float | None, further: object) -> None:
        calls.append((side.name, turn))
        store(side.directory, contended=(side.name, turn) == ("head", 2))

    monkeypatch.setattr(against, "_measure", measure)
    monkeypatch.setattr(against, "_known_options", lambda side: set())
    return calls


def store(directory: Path, *, contended: bool = False) -> None:
    save_plan(directory, RunPlan(cases=(CASE,)))
    busy = Contention(0.5, 0.5, 9, contended=True) if contended else None
    timing = replace(samples.timing(1.0), contention=busy)
    one = Round("ok", phases={"step": timing}, parts={"step": Part()})
    records.add_round(directory, Record(CASE, 1), one)


def sides(folder: Path) -> tuple[Side, Side]:
    return Side("base", folder / "base", ()), Side("head", folder / "head", ())


def test_versions_are_measured_in_turns_and_a_disturbed_turn_is_repeated_by_both(
    tmp_path: Path, measured: list[tuple[str, int]]
) -> None:
    found = alternate(*sides(tmp_path), Order(rounds=3, retries=2))
    assert measured == [
        ("base", 1), ("head", 1), ("head", 2), ("base", 2), ("base", 3), ("head", 3), ("head", 4), ("base", 4),
    ]  # fmt: skip
    assert (found.turns, found.wanted) == (4, 4)


def test_a_stopped_comparison_goes_on_where_it_ended(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    base, head = sides(tmp_path)
    alternate(base, head, Order(rounds=1))
    store(base.directory)
    measured.clear()
    alternate(base, head, Order(rounds=3))
    assert measured == [("head", 2), ("base", 3), ("head", 3)]


def test_the_deadline_holds_for_both(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    with pytest.raises(LipbenchError, match="deadline ended before both versions"):
        alternate(*sides(tmp_path), Order(deadline=time.monotonic() - 1))
    alternate(*sides(tmp_path), Order(rounds=1))
    found = alternate(*sides(tmp_path), Order(rounds=2, deadline=time.monotonic() - 1))
    assert (found.turns, found.wanted) == (1, 2)
    assert list(against.told(found.turns, found.wanted)) == [
        "1 of 2 turns measured at the deadline; continue with the same command and --resume"
    ]


Program = Callable[..., str]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """An interpreter that answers every command line alike, after the help of `profile`."""

    def write(help_text: str = HELP, stderr: str = "", code: int = 0) -> str:
        file = tmp_path / "python"
        file.write_text(
            f'#!/bin/sh\ncase "$*" in *--help*) echo "{help_text}"; exit 0;; esac\necho "{stderr}" >&2\nexit {code}\n'
        )
        file.chmod(0o755)
        return str(file)

    return write


def test_an_older_version_without_an_option_is_refused_in_one_line(tmp_path: Path, program: Program) -> None:
    base = Side("base", tmp_path / "base", ("--method", "aol", "--exported"), program())
    with pytest.raises(LipbenchError, match=r"the base has no such option: got --exported for the lipbench of .*python"):
        alternate(base, sides(tmp_path)[1], Order())


def test_what_a_version_says_is_passed_on(tmp_path: Path, program: Program) -> None:
    base = Side("base", tmp_path / "base", (), program(stderr="lipbench: unknown method", code=2), tmp_path)
    with pytest.raises(LipbenchError, match="the base cannot measure what is requested: got unknown method"):
        alternate(base, sides(tmp_path)[1], Order())


def test_records_of_a_newer_version_are_refused(tmp_path: Path, program: Program) -> None:
    store(tmp_path / "base")
    (tmp_path / "base" / "records" / f"{CASE.id}.json").write_text('{"schema": 99}')
    base = Side("base", tmp_path / "base", (), program())
    with pytest.raises(LipbenchError, match="the base writes records that this lipbench cannot read"):
        alternate(base, sides(tmp_path)[1], Order())


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LipbenchError, match="no such program"):
        against.other_interpreter(str(tmp_path / "nowhere"))
    (tmp_path / "python").write_text("#!/bin/sh\necho No module named lipbench >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    base = Side("base", tmp_path / "base", (), against.other_interpreter(str(tmp_path / "python")))
    with pytest.raises(LipbenchError, match="No module named lipbench"):
        alternate(base, sides(tmp_path)[1], Order())


def test_options_of_the_comparison_stay_here() -> None:
    given = ["--channels", "4", "--out", "x", "--against=py", "--resume", "--threads", "1", "--rounds=9"]
    dropped = {"--out": 1, "--against": 1, "--resume": 0, "--rounds": 1}
    assert kept(given, dropped) == ("--channels", "4", "--threads", "1")


# ---------------------------------------------------------------------------------------------------------- another commit


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a layer of kernel size 1, which is 3 in the working tree."""
    folder = (tmp_path / "repository").resolve()
    folder.mkdir()
    git(folder, "init")
    (folder / "layers.py").write_text(LAYER.format(kernel=1))
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    (folder / "layers.py").write_text(LAYER.format(kernel=3))
    monkeypatch.chdir(folder)
    return folder


def test_a_commit_is_measured_from_its_worktree(repository: Path, tmp_path: Path) -> None:
    here = worktree.Repository.here()
    name = external.absolute("layers.py:layer")
    with here.worktree(here.commit("HEAD"), tmp_path / "worktree") as place:
        base = worktree.side(here, place, tmp_path / "base", ["--method", name], [name])
        assert base.arguments == ("--method", f"{place}/layers.py:layer")
        assert base.folder == place
        assert "channels, 1, padding" in (place / "layers.py").read_text()
        in_module = worktree.side(here, place, tmp_path / "base", ["--method", "layers:layer"], ["layers:layer"])
        assert in_module.arguments == ("--method", "layers:layer")
    assert not place.exists()
    with here.worktree(here.commit("HEAD"), tmp_path / "worktree"):
        pass  # the path can be used again


def test_folders_of_the_repository_on_the_path_are_those_of_the_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "src").mkdir()
    (repository / "src" / "own_package_of_a_test.py").write_text("")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "two")
    monkeypatch.setattr(sys, "path", [*sys.path, str(repository / "src"), str(repository / "gone")])
    here = worktree.Repository.here()
    with here.worktree(here.commit("HEAD"), tmp_path / "worktree") as place:
        base = worktree.side(here, place, tmp_path / "base", [], ["own_package_of_a_test:layer"])
        assert base.variables["PYTHONPATH"].split(os.pathsep)[0] == str(place / "src")
        assert str(place / "gone") not in base.variables["PYTHONPATH"]


def test_a_commit_without_anything_that_is_measured_is_refused(repository: Path, tmp_path: Path) -> None:
    here = worktree.Repository.here()
    with (
        here.worktree(here.commit("HEAD"), tmp_path / "worktree") as place,
        pytest.raises(LipbenchError, match="both versions would be the same"),
    ):
        worktree.side(here, place, tmp_path / "base", ["--method", "aol"], ["aol"])


def test_a_commit_that_is_none_is_refused(repository: Path) -> None:
    with pytest.raises(LipbenchError, match=r"nowhere \(no such commit\)"):
        worktree.Repository.here().commit("nowhere")


def test_a_resumed_comparison_keeps_its_base(tmp_path: Path) -> None:
    worktree.same_base(tmp_path, "abc")
    worktree.same_base(tmp_path, "abc")
    with pytest.raises(LipbenchError, match="was abc: got abd"):
        worktree.same_base(tmp_path, "abd")


def test_files_at_other_paths_are_counterparts() -> None:
    base = ["/base/a/layers.py:L", "/base/b/layers.py:L", "/base/c.py:L(n=1)", "aol", "/old/x.py:L"]
    head = ["/head/a/layers.py:L", "/head/b/layers.py:L", "/head/c.py:L(n=2)", "aol", "/one/x.py:L", "/two/x.py:L"]
    assert counterparts(base, head) == {
        "/base/a/layers.py:L": "/head/a/layers.py:L", "/base/b/layers.py:L": "/head/b/layers.py:L"
    }  # fmt: skip
    runs = [Run(Path(name), RunPlan(), (Record(Case(LayerSpec(f"/{name}/l.py:L", 4, 6), 2), 1),)) for name in ("base", "head")]
    moved, told = matched(runs[0], runs[1])
    assert moved.records[0].case == runs[1].records[0].case
    assert told == ["/head/l.py:L is compared with /base/l.py:L"]


def test_profile_compares_with_a_commit(repository: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "lipbench.cli", "profile", "--method", "layers.py:layer", "--channels", "2", "--image-size", "4",
        "--batch-size", "1", "--threads", "1", "--measure", "macs", "--out", str(tmp_path / "out"), "--against-ref", "HEAD",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "DIFFERENT" in done.stdout
    assert "layers.py:layer is compared with" in done.stdout
    assert re.search(r"^base: HEAD \([0-9a-f]{12}\); head: the files here \([0-9a-f]{12}", done.stdout, re.MULTILINE)
    assert "times:" not in done.stdout, "none was measured"
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["against.json", "base", "head"]
