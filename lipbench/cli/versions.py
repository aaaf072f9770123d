"""`lipbench profile --against`: two versions measured in turns, and compared."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lipbench import errors, external
from lipbench.cli import compare, streams
from lipbench.cli.printing import Printer
from lipbench.run import against, profiling, worktree
from lipbench.run.against import Alternated, Order, Side
from lipbench.run.book import TIME

OWN = {"--against": 1, "--against-ref": 1, "--fail-on": 1, "--out": 1, "--rounds": 1, "--retries": 1, "--deadline": 1,
       "--memory-limit": 1, "--method": 1, "--network": 1, "--allow": 1, "--resume": 0, "--traceback": 0}  # fmt: skip
"""options that both versions do not get as they were given → number of values"""


def measure(
    options: profiling.Options,
    arguments: Sequence[str],
    python: str | None,
    ref: str | None,
    fail_on: tuple[str, ...],
    *,
    traceback: bool = False,
) -> None:
    """Measure two versions, and print their comparison; exits with code 3 by `fail_on`, or if a case of the head fails, and 4
    if `fail_on` names times and none could be decided.

    `arguments` are those of the verb. Raises `LipbenchError` for wrong use, before anything is measured.
    """
    for text in fail_on:
        compare.limit(text)
    if python is not None and ref is not None:
        raise errors.both_versions()
    for option, is_given in (("--target", options.target is not None), ("--retry-failed", options.retry_failed),
                             ("--retry-contended", options.retry_contended)):  # fmt: skip
        if is_given:
            raise errors.not_against(option)
    if options.resume and options.out is None:
        raise errors.resume_without_run()
    described = _described(python, ref)
    folder = against.new_folder(options.out or profiling.new_directory(Path("runs")), resume=options.resume)
    try:
        with _base(python, ref, folder, _arguments(options, arguments), _names(options)) as base:
            head = Side("head", folder / "head", _arguments(options, arguments))
            found = against.alternate(base, head, _order(options), _shown)
    except KeyboardInterrupt:
        streams.complain(f"finished rounds are stored; continue with the same command, --resume and --out {folder}")
        raise
    finally:
        _shown(0, 0, "")
    print(described)
    _print(found, fail_on, traceback=traceback)


def _described(python: str | None, ref: str | None) -> str:
    """Which two versions these are."""
    if python is not None:
        return f"base: {against.other_interpreter(python)}; head: {sys.executable}"
    repository = worktree.Repository.here()
    head = repository.checked_out()
    state = " with uncommitted changes" if head.endswith("+") else ""
    return f"base: {ref} ({repository.commit(ref or '')[:12]}); head: the files here ({head[:12]}{state})"


@contextlib.contextmanager
def _base(
    python: str | None, ref: str | None, folder: Path, arguments: tuple[str, ...], names: Sequence[str]
) -> Iterator[Side]:
    directory = folder / "base"
    if python is not None:
        path = against.other_interpreter(python)
        worktree.same_base(folder, path)
        yield Side("base", directory, arguments, path, environment=against.without_python_path(os.environ))
        return
    repository = worktree.Repository.here()
    commit = repository.commit(ref or "")
    worktree.same_base(folder, commit, repository.checked_out())
    with repository.worktree(commit, folder / "worktree") as place:
        yield worktree.side(repository, place, directory, arguments, names)


def _arguments(options: profiling.Options, given: Sequence[str]) -> tuple[str, ...]:
    """The options that both versions get: as given, with absolute names, and with cases, so that a run can be resumed."""
    request = options.request
    names = {"--method": request.methods, "--network": request.networks, "--allow": options.allow}
    absolute = (part for option, some in names.items() if some for part in (option, ",".join(map(external.absolute, some))))
    cases = () if request.names_cases else ("--preset", request.preset_name)
    limit = options.limits.memory_bytes
    memory = () if limit is None else ("--memory-limit", str(limit))  # older versions know bytes alone
    return (*against.kept(given, OWN), *absolute, *cases, *memory)


def _names(options: profiling.Options) -> list[str]:
    return [external.absolute(name) for name in (*(options.request.methods or ()), *(options.request.networks or ()))]


def _order(options: profiling.Options) -> Order:
    rounds = options.limits.rounds or against.ROUNDS
    if options.measure is not None and TIME not in options.measure:
        rounds = 1  # the rest is the same in every round
    deadline = None if options.deadline_s is None else time.monotonic() + options.deadline_s
    return Order(rounds, profiling.RETRIES if options.retries is None else options.retries, deadline)


def _shown(turn: int, turns: int, name: str) -> None:
    """Show what is being measured, on a terminal in place; nothing for an empty name."""
    text = f"turn {turn} of {turns}: {name}" if name else ""
    if sys.stderr.isatty():
        print(f"\r{text:<40}" + ("" if name else "\r"), end="", file=sys.stderr, flush=True)
    elif text:
        streams.complain(f"lipbench: {text}")


def _print(found: Alternated, fail_on: tuple[str, ...], *, traceback: bool) -> None:
    print(found.head.path.parent)
    for line in against.told(found.turns, found.wanted):
        print(line)
    answer = compare.answer(found.base.path, found.head.path, fail_on, least_pairs=against.LEAST_PAIRS, alternating=True)
    tracebacks = tuple(text for run in (found.base, found.head) for record in run.records for text in record.tracebacks)
    failed = answer.failed or found.failed
    Printer(None, None, traceback=traceback).print(replace(answer, failed=failed, tracebacks=tracebacks))
