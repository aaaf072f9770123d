"""Completion in a shell: what Typer's script for bash gets for a command line that is not finished yet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lipbench import registry
from lipbench.cases import PRESETS
from lipbench.cli import completion
from lipbench.cli import main as cli
from lipbench.cli.options import FormatName

Completed = Callable[..., list[str]]


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Completed:
    def complete(*words: str) -> list[str]:
        """What may stand in place of the last word."""
        monkeypatch.setenv(cli.ASKED, "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["lipbench", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        with pytest.raises(SystemExit) as ended:
            cli.main([])
        out, err = capfd.readouterr()
        assert (ended.value.code, err) == (0, "")
        return out.split()

    return complete


def test_verbs_options_and_names_are_completed(completed: Completed) -> None:
    assert set(completed("")) == set(cli.VERBS)
    assert completed("se") == ["search", "selftest"]
    assert set(completed("-")) >= {*cli.COMPLETION, "--help"}
    assert completed("profile", "--prese") == ["--preset"]
    assert completed("profile", "--preset", "") == list(PRESETS)
    assert completed("show", "run", "--format", "") == list(FormatName)
    assert completed("profile", "--method", "s") == ["sandwich", "sll", "soc", "standard"]
    assert completed("profile", "--method", "aol,s") == ["aol,sandwich", "aol,sll", "aol,soc", "aol,standard"]
    assert completed("train", "--method", "aol,soc,s") == ["aol,soc,sandwich", "aol,soc,sll", "aol,soc,standard"]
    assert completed("verify", "so") == ["soc"]
    assert completed("complexity", "soc,bc") == ["soc,bcop", "soc,bcop-polar"]
    assert completed("profile", "--measure", "time,m") == ["time,memory", "time,macs"]
    assert completed("train", "--dataset", "cifar") == ["cifar10", "cifar100"]


def test_the_methods_are_known_without_the_registry() -> None:
    """An import of the registry takes seconds, and a shell asks at every press of the key."""
    assert set(completion.methods()) == set(registry.methods())


def test_no_completion_imports_torch(tmp_path: Path) -> None:
    words = {cli.ASKED: "complete_bash", "COMP_WORDS": "lipbench\nprofile\n--method\naol,s", "COMP_CWORD": "3"}
    program = "import sys; from lipbench.cli.main import main\ntry: main([])\nfinally: print('torch' in sys.modules)"
    command, environment = [sys.executable, "-c", program], {**os.environ, **words}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["aol,sandwich", "aol,sll", "aol,soc", "aol,standard", "False"]


def test_the_script_is_shown_and_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["--show-completion"])
    script = capfd.readouterr().out
    assert ended.value.code == 0
    assert f"{cli.ASKED}=complete_bash" in script
    with pytest.raises(SystemExit):
        cli.main(["--install-completion"])
    (file,) = (tmp_path / ".bash_completions").iterdir()
    assert file.read_text().strip() == script.strip()
    assert str(file) in capfd.readouterr().out


def test_an_unknown_shell_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("tcsh", "/bin/tcsh"))
    for option in cli.COMPLETION:
        with pytest.raises(SystemExit) as ended:
            cli.main([option])
        out, err = capfd.readouterr()
        assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
        assert "bash, zsh, fish" in err
