"""Completion of verbs, options and names in a shell, by Typer: the script to install, and the words that a shell asks for.

Nothing that a completion needs imports torch, because a shell asks at every press of the key.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files

import typer

from lipbench import errors
from lipbench.adapters import PEERS_WORD

Known = Callable[[], Iterable[str]]
"""gives the names that an option takes, when they are needed"""


def answer(arguments: Sequence[str], verbs: Mapping[str, str], *, asked: bool) -> int:
    """Print the completions that a shell has `asked` for, or install or print its script, and return the exit code.

    Raises `LipbenchError` for a shell that Typer does not know.
    """
    command = typer.main.get_command(_app(verbs))
    if asked:
        return int(command.main(list(arguments), "lipbench", standalone_mode=False) or 0)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = command.main(list(arguments), "lipbench", standalone_mode=False)
    except SystemExit as stop:
        code = stop.code
    if code:
        raise errors.unknown_shell()
    print(said.getvalue(), end="")
    return 0


def _app(verbs: Mapping[str, str]) -> typer.Typer:
    """All verbs, of which only those that the shell names are imported, because only their options can be asked for."""
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    named = set(re.split(r"\s+", os.environ.get("COMP_WORDS", "") + " " + os.environ.get("_TYPER_COMPLETE_ARGS", "")))
    for verb, line in verbs.items():
        app.command(verb, help=line)(getattr(import_module(f"lipbench.cli.{verb}"), verb) if verb in named else _no_options)
    return app


def _no_options() -> None:
    """Stands for a verb whose options nobody asks for."""


def in_list(known: Known) -> Callable[[str], list[str]]:
    """Completes the last name of a comma-separated list by those that it does not have yet."""

    def complete(incomplete: str) -> list[str]:
        whole, comma, begun = incomplete.rpartition(",")
        return [f"{whole}{comma}{name}" for name in known() if name.startswith(begun) and name not in whole.split(",")]

    return complete


def one_of(known: Known) -> Callable[[str], list[str]]:
    """Completes a name."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in known() if name.startswith(incomplete)]

    return complete


def these(*names: str) -> Known:
    """Names that are always the same."""
    return lambda: names


def nothing() -> Iterable[str]:
    """No names, for options whose names cannot be listed."""
    return ()


def methods() -> list[str]:
    """Names of the methods: each of this package is a file in `layers/`, and those of others are entry points."""
    ours = (file.name for file in (files("lipbench") / "layers").iterdir() if file.name.endswith(".py"))
    names = {name.removesuffix(".py").replace("_", "-") for name in ours if not name.startswith("_")} - {"base"}
    return sorted(names | {one.name for one in entry_points(group="lipbench.methods")})


def layers() -> list[str]:
    """Names that stand for layers: those of methods, and the word for all peers."""
    return [*methods(), PEERS_WORD]
