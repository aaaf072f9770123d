"""Layers that attack the process that measures them end as records, and the verbs that time nothing survive them too.

The layers are in `hostile_layers`.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lipbench.cases import Case, LayerSpec, Limits
from lipbench.run import folders, isolate
from lipbench.run.processes import FORK, Processes
from lipbench.store.records import round_from_dict, round_to_dict
from lipbench.store.rounds import Round

HERE = Path(__file__).parent
NO_RESULT = "ended with exit code 0 and no result"
ENDS = {
    "LeavesAPipe": ("raised", NO_RESULT),
    "LeavesALinkToADevice": ("raised", NO_RESULT),
    "LeavesAHugeFile": ("raised", NO_RESULT),
    "LeavesADirectory": ("raised", NO_RESULT),
    "LeavesAPipeForItsErrors": ("raised", NO_RESULT),
    "NestsAnswers": ("raised", NO_RESULT),
    "ForgesAnAnswer": ("raised", NO_RESULT),
    "LinksItsFolder": ("raised", NO_RESULT),
    "HasASurrogate": ("raised", r"ValueError: half a character: \ud800"),
    "TalksAtLength": ("raised", "ValueError: xxx"),
    "CannotBePrinted": ("raised", "_NoTextError: its message cannot be read, because __str__ raised RuntimeError"),
    "KillsItsParent": ("crashed", "ended by SIGKILL"),
    "KillsItsGroup": ("crashed", "ended by SIGKILL"),
    "KillsItsParentsGroup": ("crashed", "ended by SIGKILL"),
    "LeavesProcesses": ("ok", ""),
    "IgnoresSignals": ("ok", ""),
    "Exits": ("raised", "SystemExit: 0"),
    "ClosesItsStreams": ("ok", ""),
    "Floods": ("ok", ""),
    "ChangesTheFolder": ("ok", ""),
    "EmptiesItsFolders": ("raised", "ended with exit code 1 and no result: FileNotFoundError"),
    "Traces": ("ok", ""),
    "BreaksJson": ("raised", NO_RESULT),
}
"""layer → its status, and what its reason contains"""
ENDLESS = ("Hangs", "StopsItself", "StopsTheClock")


@pytest.fixture(autouse=True)
def _layers_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    monkeypatch.setenv("LIPBENCH_TEST_PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("LIPBENCH_TEST_VICTIM", str(tmp_path / "victim"))
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").touch()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """One server for all layers: each has to leave it, or a new one, fit for the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        with Processes(FORK) as processes:
            yield processes


def measured(processes: Processes, layer: str, timeout_s: float = 120.0) -> Round:
    case = Case(LayerSpec(f"hostile_layers:{layer}", 2, 4), batch_size=2)
    return isolate.run_round(processes, case, Limits(0.01, timeout_s), ("inference",))


@pytest.mark.parametrize("layer", ENDS)
def test_an_attack_is_a_record(processes: Processes, layer: str, tmp_path: Path) -> None:
    if layer in ("LinksItsFolder", "LeavesProcesses"):
        processes.renew()  # a server has the environment that it was started with
    one = measured(processes, layer)
    status, reason = ENDS[layer]
    assert one.status == status
    assert reason in one.reason
    assert len(one.reason) < 1000
    assert "\n" not in one.reason
    stored = json.dumps(round_to_dict(one), ensure_ascii=False)
    assert len(stored.encode()) < 40_000
    assert round_from_dict(json.loads(stored)) == one
    assert os.listdir(tmp_path / "victim") == ["precious"]
    if layer == "LeavesProcesses":
        left = list(map(int, (tmp_path / "pids").read_text().split()))
        assert len(left) == 2
        assert not any(map(psutil.pid_exists, left))


def test_endless_layers_are_killed(processes: Processes) -> None:
    measured(processes, "Exits")  # starts the server, whose start counts towards the limit
    for layer in ENDLESS:
        one = measured(processes, layer, timeout_s=3.0)
        assert (one.status, one.reason) == ("timeout", "no result within 3 s; raise --timeout")


def test_the_reason_names_the_line_and_the_record_has_the_traceback(processes: Processes) -> None:
    one = measured(processes, "HasASurrogate")
    line = next(
        number for number, line in enumerate((HERE / "hostile_layers.py").read_text().splitlines(), 1) if r"\ud800 \x1b" in line
    )
    assert one.reason.endswith(f"(hostile_layers.py:{line})")
    assert f'hostile_layers.py", line {line}, in attack' in one.traceback
    long = measured(processes, "TalksAtLength").traceback
    assert "in attack" in long
    assert len(long) < 10_000


# ------------------------------------------------------------------------------------------------------- other verbs


def run(*arguments: str, folder: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "lipbench.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


HARMLESS_AND_NOT = ("faulty_layers:Plain", "hostile_layers:Exits", "hostile_layers:ExitsAtOnce", "hostile_layers:Crashes",
                    "hostile_layers:ForgesAnAnswer")  # fmt: skip
SIZES = ("--channels", "2", "--image-size", "4", "--kernel-size", "1")


def test_verify_has_a_row_for_every_layer(tmp_path: Path) -> None:
    code, out, err = run("verify", *HARMLESS_AND_NOT, *SIZES, "--format", "json", "--traceback", folder=tmp_path)
    found = {row["method"]: (row["verdict"], row["reason"]) for row in json.loads(out) if row["mode"] != "training"}
    assert found.pop("faulty_layers:Plain") == ("ok", "")
    assert {name.partition(":")[2]: verdict for name, (verdict, _) in found.items()} == dict.fromkeys(
        ("Exits", "ExitsAtOnce", "Crashes", "ForgesAnAnswer"), "failed"
    )
    assert found["hostile_layers:Exits"][1].startswith("SystemExit: 0 (hostile_layers.py:")
    assert found["hostile_layers:ExitsAtOnce"][1] == NO_RESULT
    assert found["hostile_layers:Crashes"][1] == "ended by SIGSEGV"
    assert "hostile_layers.py" in err
    assert "raise SystemExit(0)" in err
    assert code == 3


def test_predict_has_the_other_rows(tmp_path: Path) -> None:
    arguments = ("--method", ",".join(HARMLESS_AND_NOT), *SIZES, "--batch-size", "2")
    code, out, err = run("predict", *arguments, "--format", "json", folder=tmp_path)
    assert ["faulty_layers-Plain" in row["case"] for row in json.loads(out)] == [True]
    assert ["SIGSEGV" in line for line in err.splitlines()] == [False, False, True, False]
    assert code == 3


def test_complexity_has_the_other_rows(tmp_path: Path) -> None:
    code, out, err = run("complexity", "faulty_layers:Plain,hostile_layers:ExitsAtOnce", folder=tmp_path)
    assert "Plain" in out
    assert err == f"lipbench: hostile_layers:ExitsAtOnce: {NO_RESULT}\n"
    assert code == 3


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 11)", "raise SystemExit(0)"])
def test_a_module_that_ends_its_process_when_it_is_imported(tmp_path: Path, end: str) -> None:
    (tmp_path / "ends.py").write_text(f"import os\n{end}\n")
    code, out, err = run("verify", "ends:Layer", *SIZES, folder=tmp_path)
    assert code in (2, 3)
    assert "failed" in out or "cannot be imported" in err
    assert "Traceback" not in err


# -------------------------------------------------------------------------------------------------- temporary folders


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary directory, and the path of this user's folder in it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / f"lipbench-{os.getuid()}"


def test_folders_of_killed_processes_are_removed_by_the_next_and_others_stay(elsewhere: Path) -> None:
    program = (
        f"import os, tempfile; tempfile.tempdir = {str(elsewhere.parent)!r}\n"
        "from lipbench.run import folders\n"
        "with folders.temporary() as folder:\n    (folder / 'file').touch(); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert len(list(elsewhere.rglob("file"))) == 1
    with folders.temporary() as other, folders.temporary() as folder:
        assert sorted(elsewhere.iterdir()) == sorted([folder, other])
        assert elsewhere.stat().st_mode & 0o777 == 0o700
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_others_may_have_prepared_is_not_used(elsewhere: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    elsewhere.symlink_to(victim)
    with folders.temporary() as folder:
        assert folder.parent == elsewhere.parent
    elsewhere.unlink()
    elsewhere.mkdir(mode=0o777)
    elsewhere.chmod(0o777)
    with folders.temporary() as folder:
        assert folder.parent == elsewhere.parent
    assert os.listdir(victim) == ["precious"]
    assert not folder.exists()


def test_a_link_among_the_folders_is_neither_followed_nor_in_the_way(elsewhere: Path, tmp_path: Path) -> None:
    with folders.temporary():
        (elsewhere / "lipbench-link").symlink_to(tmp_path / "victim")
        (elsewhere / "lipbench-file").touch()
    with folders.temporary() as folder:
        assert folder.is_dir()
    assert os.listdir(tmp_path / "victim") == ["precious"]


def test_a_folder_in_use_is_locked(elsewhere: Path) -> None:
    with folders.temporary() as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
