"""The command line: finds the verb, imports only its file, and turns errors into one line and an exit code.

Exit codes: 0 success, 2 wrong use or output that cannot be written (one line on stderr), 3 some case or check failed, 4 the
machine is too noisy for `selftest`, 130 interrupted,
141 a broken pipe.

The list of verbs is printed without Typer, whose import takes longer than the rest of `lipbench --help`. `main` imports all
that it needs while it runs, because Ctrl-C during an import outside it would print a traceback.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any, NoReturn

VERBS = {
    "methods": "List the methods, their sources and claims.",
    "theory": "Print Table 1 of the paper, and the exact costs of this code.",
    "kernels": "Compile the Triton kernels without a GPU; print their resources.",
    "verify": "Compute Lipschitz constants of layers and networks.",
    "complexity": "Count the costs of any layer, and print them as formulas.",
    "predict": "Predict memory and time of training and inference from shapes.",
    "fits": "Find the largest batch that fits into a memory.",
    "recommend": "Say which method in which size, within memory and time.",
    "breakdown": "Print time, memory and MACs of each layer of a network.",
    "search": "Search learning rate and weight decay, then train with the best.",
    "train": "Train networks for equal budgets: accuracy and certified accuracy.",
    "evaluate": "Certify and evaluate a trained network, also under attack.",
    "profile": "Measure methods over shapes, and store a run directory.",
    "show": "Print the answer of a run: relative costs, and the verdict.",
    "export": "Write a run as one table of measurements and theory.",
    "compare": "Compare two runs: what became slower, larger, or fails.",
    "calibrate": "Measure the rates of this machine, which times are predicted from.",
    "selftest": "Hold the clocks and the counter against others.",
    "doctor": "Say what will spoil a measurement on this machine.",
    "accuracy": "Print accuracy and certified robust accuracy of trainings.",
    "report": "Write the report of a run as one HTML file.",
    "index": "Write one HTML page over many runs, with links to their reports.",
}
"""Verb → its line in `lipbench --help`. Each verb is a function in a file, both with its name."""
HELP = ("--help", "-h")
COMPLETION, ASKED = ("--install-completion", "--show-completion"), "_LIPBENCH_COMPLETE"
"""options that Typer answers, and the variable in the environment of a shell that asks for completions"""
WRONG_USE, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit; by default that of this process, of which Ctrl-C then never prints a traceback."""
    pressed: list[int] = []
    try:
        if arguments is None:
            _watch_for_interrupts(pressed)
        code = _code(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception:
        if not pressed:  # libraries turn an interruption of their imports into other errors
            raise
        code = INTERRUPTED
    if arguments is None:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # while Python shuts down
    if code == INTERRUPTED:
        from lipbench.cli import streams

        streams.complain("lipbench: interrupted")
    raise SystemExit(code)


def _watch_for_interrupts(pressed: list[int]) -> None:
    """Note when Ctrl-C is pressed, unless it is ignored, as in the background of a shell."""
    import os
    import signal

    from lipbench.cli import streams

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        pressed.append(number)
        raise KeyboardInterrupt

    def give_up(found: Any) -> None:
        if pressed and issubclass(found.exc_type, KeyboardInterrupt):  # raised in a callback, which Python goes on after
            streams.complain("lipbench: interrupted")
            os._exit(INTERRUPTED)
        sys.__unraisablehook__(found)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = give_up


def _code(arguments: Sequence[str]) -> int:
    """Run a command line and return the exit code; a stream that cannot be written to is one line on stderr."""
    import os

    from lipbench.cli import streams

    if not streams.prepare():
        return _refuse("stdout is closed; send it to a file or to /dev/null")
    verb, *rest = arguments or ["--help"]
    code = 0
    try:
        if verb in COMPLETION or ASKED in os.environ:
            code = _run(None, arguments)
        elif verb in HELP:
            print(_help())
        elif verb == "--version":
            from lipbench import __version__

            print(__version__)
        else:
            code = _run(verb, rest)
        problem = streams.broken()
    except OSError as error:
        problem = streams.broken() or error
        if problem.errno not in streams.UNWRITABLE:  # files have their own messages: see `store.files.write_errors`
            raise
    if problem is None:
        return code
    return streams.BROKEN_PIPE if streams.is_pipe(problem) else _refuse(f"cannot write the output: {problem.strerror}")


def _help() -> str:
    widest = max(map(len, VERBS))
    return "\n".join(
        [
            "Usage: lipbench [OPTIONS] COMMAND [ARGS]...\n",
            "  Profile 1-Lipschitz layers: time, memory and MACs, with theory.\n",
            "Options:",
            "  --version             Print the version.",
            "  --install-completion  Have this shell complete commands, options and names.",
            "  --show-completion     Print the script for that.",
            "  --help, -h            Print this list; after a command, its options.\n",
            "Commands:",
            *(f"  {verb:<{widest}}  {line}" for verb, line in VERBS.items()),
        ]
    )


def _run(verb: str | None, arguments: Sequence[str]) -> int:
    """Run a verb, or completion where that is None, and return the exit code. Wrong use is one line on stderr."""
    import os

    import typer

    from lipbench import errors
    from lipbench.cli import completion, streams

    # The base class of Typer's own copy of Click, or of Click itself where Typer is older.
    click_error: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        if verb is None:
            return completion.answer(arguments, VERBS, asked=ASKED in os.environ)
        code = _command(verb).main(list(arguments), f"lipbench {verb}", standalone_mode=False)
    except click_error as error:
        return _refuse(_wrong_use(error.format_message(), verb or ""))
    except errors.LipbenchError as error:
        summary, _, code_to_write = str(error).partition("\n")
        if "--traceback" in arguments:
            from lipbench import traces

            streams.complain(traces.of_cause(error))
        return _refuse(summary, code_to_write)
    except SystemExit as stop:  # Typer's answer to a broken pipe
        raise stop.__context__ if isinstance(stop.__context__, BrokenPipeError) else stop from None
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED  # newer versions of Typer return it on Ctrl-C
    return code or 0


def _wrong_use(message: str, verb: str) -> str:
    """Typer's message of wrong use, in our words where it does not say what to do."""
    import re

    from lipbench import errors

    if extra := re.match(r"Got unexpected extra argument\S* \((.*)\)", message):
        return str(errors.extra_arguments(extra[1], verb))
    return f"{message.replace('Value error, ', '').rstrip('.')}; see lipbench {f'{verb} ' if verb else ''}--help"


def _command(verb: str) -> Any:
    """The Typer command of a verb. Raises `LipbenchError` for a verb that does not exist."""
    from importlib import import_module

    import typer

    from lipbench import errors

    if verb not in VERBS:
        raise errors.unknown_verb(verb, tuple(VERBS))
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": list(HELP)})(getattr(import_module(f"lipbench.cli.{verb}"), verb))
    return typer.main.get_command(app)


def _refuse(message: str, code_to_write: str = "") -> int:
    from lipbench.cli import streams

    streams.complain(f"lipbench: {' '.join(message.split())}")
    if code_to_write:
        streams.complain(code_to_write.rstrip())
    return WRONG_USE


if __name__ == "__main__":
    main()
