"""Output that cannot be written, and Ctrl-C, at any moment: one line at most, and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from lipbench.answer import Answer
from lipbench.cli import streams
from lipbench.cli.printing import Printer, name_problems

SHORT = ("theory", "--method", "aol")
INTERRUPTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["lipbench", *{arguments!r}]
from lipbench.cli.main import main
sys.meta_path.insert(0, Finder())
main()
"""


def run(
    arguments: Sequence[str], folder: Path, redirection: str = "", environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """A command line in a shell: exit code, stdout and stderr."""
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "lipbench.cli", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**buffered, **(environment or {})}, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [(("--help",), ""), (("--version",), "1"), (("methods", "--help"), ""), (SHORT, "1")]
)
def test_a_full_device_is_one_line(tmp_path: Path, arguments: tuple[str, ...], unbuffered: str) -> None:
    code, _, err = run(arguments, tmp_path, "> /dev/full", {"PYTHONUNBUFFERED": unbuffered})
    assert (code, err) == (2, "lipbench: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("arguments", [("--version",), SHORT])
def test_a_closed_stdout_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, _, err = run(arguments, tmp_path, ">&-")
    assert (code, err) == (2, "lipbench: stdout is closed; send it to a file or to /dev/null\n")


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full", "<&-"])
def test_other_streams_that_are_closed_or_full_change_nothing(tmp_path: Path, redirection: str) -> None:
    code, out, err = run(("--version",), tmp_path, redirection)
    assert (code, err) == (0, "")
    assert out != ""
    assert run(("nope",), tmp_path, redirection)[0] == 2


def test_a_reader_that_ends_early_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lipbench.cli", "methods"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (streams.BROKEN_PIPE, "")


def test_characters_that_a_terminal_lacks_are_escapes(tmp_path: Path) -> None:
    code, out, err = run(SHORT, tmp_path, environment={"PYTHONIOENCODING": "ascii"})
    assert (code, err) == (0, "")
    assert out.isascii()
    assert r"b c\xb2 k\xb2 s\xb2" in out


@pytest.mark.parametrize(
    "verb", ["methods", "theory", "kernels", "verify", "complexity aol", "predict", "export .", "report ."]
)
@pytest.mark.parametrize(
    ("path", "why"), [("", "takes a path"), (".", "is a directory"), ("absent/x.csv", "no directory absent")]
)
def test_paths_that_cannot_be_written_are_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], verb: str, path: str, why: str
) -> None:
    from lipbench.cli.main import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*verb.split(), "-o", path])
    out, err = capfd.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert why in err


def test_an_empty_run_directory_is_refused(tmp_path: Path) -> None:
    code, _, err = run(("profile", "--out", ""), tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_escapes_of_terminals_are_shown_as_text(capfd: pytest.CaptureFixture[str]) -> None:
    text = "red \x1b[31m, back \x08, rung \x07, turned \u202e, next \x9b line\r"
    Printer("table", None).print(Answer(pd.DataFrame({"reason": [text]}), remarks=(text, "\ud800")))
    name_problems([text])
    out, err = capfd.readouterr()
    shown = r"red \x1b[31m, back \x08, rung \x07, turned \u202e, next \x9b line\r"
    assert out.count(shown) == 2
    assert out.endswith("\\ud800\n")
    assert err == f"lipbench: {shown}\n"


MOMENTS = ("typer", "lipbench.errors", "lipbench.cli.theory", "sympy", "torch")


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_during_any_import_is_one_line(tmp_path: Path, moment: str) -> None:
    program = INTERRUPTING.format(moment=moment, arguments=SHORT)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "lipbench: interrupted\n")


def test_a_process_in_the_background_ignores_ctrl_c_as_its_shell_wants(tmp_path: Path) -> None:
    program = INTERRUPTING.format(moment="torch", arguments=SHORT).replace("signal.default_int_handler", "signal.SIG_IGN")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
