"""The command line: finds the verb, imports only its file, and turns errors into one line and an exit code.

Exit codes: 0 success, 2 wrong use (one line on stderr), 3 some case failed, 130 interrupted.

The list of verbs is printed without Typer, whose import takes longer than the rest of `lipbench --help`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

VERBS = {
    "methods": "List the methods, their sources and claims.",
    "theory": "Print Table 1 of the paper, and the exact costs of this code.",
    "kernels": "Compile the Triton kernels without a GPU; print their resources.",
    "verify": "Compute Lipschitz constants of layers and networks.",
    "complexity": "Count the costs of any layer, and print them as formulas.",
    "predict": "Predict the memory of training and inference from shapes alone.",
    "profile": "Measure methods over shapes, and store a run directory.",
    "export": "Write a run as one table of measurements and theory.",
    "compare": "Compare two runs: what became slower, larger, or fails.",
    "report": "Write the report of a run as one HTML file.",
}
"""Verb → its line in `lipbench --help`. Each verb is a function in a file, both with its name."""
WRONG_USE, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, by default `sys.argv`, and exit."""
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb == "--help":
        print(_help())
    elif verb == "--version":
        from lipbench import __version__

        print(__version__)
    else:
        raise SystemExit(_run(verb, rest))
    raise SystemExit(0)


def _help() -> str:
    widest = max(map(len, VERBS))
    return "\n".join(
        [
            "Usage: lipbench [OPTIONS] COMMAND [ARGS]...\n",
            "  Profile 1-Lipschitz layers: time, memory and MACs, with theory.\n",
            "Options:",
            "  --version  Print the version.",
            "  --help     Print this list; after a command, its options.\n",
            "Commands:",
            *(f"  {verb:<{widest}}  {line}" for verb, line in VERBS.items()),
        ]
    )


def _run(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb and return the exit code. Wrong use is one line on stderr."""
    import typer

    from lipbench import errors

    # The base class of Typer's own copy of Click, or of Click itself where Typer is older.
    click_error: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        code = _command(verb).main(list(arguments), f"lipbench {verb}", standalone_mode=False)
    except click_error as error:
        return _refuse(f"{error.format_message().rstrip('.')}; see lipbench {verb} --help")
    except errors.LipbenchError as error:
        summary, _, code_to_write = str(error).partition("\n")
        return _refuse(summary, code_to_write)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    if code == INTERRUPTED:  # newer versions of Typer return this code on Ctrl-C
        print("lipbench: interrupted", file=sys.stderr)
    return code or 0


def _command(verb: str) -> Any:
    """The Typer command of a verb. Raises `LipbenchError` for a verb that does not exist."""
    import typer

    from lipbench import errors

    if verb not in VERBS:
        raise errors.unknown_verb(verb, VERBS)
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    app.command()(getattr(import_module(f"lipbench.cli.{verb}"), verb))
    return typer.main.get_command(app)


def _refuse(message: str, code_to_write: str = "") -> int:
    print(f"lipbench: {' '.join(message.split())}", file=sys.stderr)
    if code_to_write:
        print(code_to_write.rstrip(), file=sys.stderr)
    return WRONG_USE


if __name__ == "__main__":
    main()
