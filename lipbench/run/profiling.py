"""From options to measured rounds in a run directory, which is new or resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lipbench import __version__, cases, errors
from lipbench.cases import PRESETS, Case, ExternalNetworkSpec, Limits, needs_triton
from lipbench.run import isolate, schedule
from lipbench.run.isolate import Place, Processes
from lipbench.run.plan import Request, plan
from lipbench.run.schedule import MEASURED, TIME, Order, Outcome, Progress
from lipbench.store import records
from lipbench.store.files import from_json, is_own_trace
from lipbench.store.records import Run
from lipbench.store.rounds import HARMLESS

Shown = Callable[[Sequence[Case]], AbstractContextManager[Progress]]
"""Planned cases → a block in which a run's progress is shown."""


def _unseen(planned: Sequence[Case]) -> AbstractContextManager[Progress]:
    return nullcontext(lambda *_: None)


@dataclass(frozen=True)
class LimitOptions:
    """Limits that were asked for; None: as the run that is gone on with, or by default."""

    phase_seconds: float | None = None
    timeout_s: float | None = None
    memory_bytes: int | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Options:
    """What `lipbench profile` was told."""

    request: Request
    device: str
    limits: LimitOptions
    deadline_s: float | None = None
    out: Path | None = None
    resume: bool = False
    retry_failed: bool = False
    measure: tuple[str, ...] | None = None
    """of `schedule.MEASURED`; None: as the run that is gone on with, or all"""
    fresh: str | None = None
    """`isolate.FORK` or `isolate.START`; None: as usual on this system"""


@dataclass(frozen=True)
class Finished:
    """A run that has come to its end, or to its deadline."""

    directory: Path
    outcome: Outcome

    @property
    def failed(self) -> bool:
        """Whether some case failed or could not be stored."""
        return bool(self.outcome.problems) or any(record.status not in HARMLESS for record in self.outcome.records)


class InterruptedRunError(KeyboardInterrupt):
    """Ctrl-C while a run was measured; what was measured is stored."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory))
        self.directory = directory


def profile(options: Options, command: str, shown: Shown = _unseen) -> Finished:
    """Measure, and store each round in the run directory as soon as it is there.

    `command` is kept in the run; `shown` shows progress. Raises `LipbenchError` for wrong use, before anything is written, and
    afterwards if not a single case could run; `InterruptedRunError` for Ctrl-C.
    """
    deadline = None if options.deadline_s is None else time.monotonic() + options.deadline_s
    standing = _standing_run(options)
    with isolate.Processes(options.fresh or isolate.usual_start()) as processes:
        added, place = _added(options, standing, processes)
        planned = tuple(dict.fromkeys((*(standing.planned if standing else ()), *added)))
        limits, rounds = _limits(options, standing)
        order = Order(
            rounds, limits, _measured(options, standing), frozenset(added), options.retry_failed, deadline,
            ("cpu",) if place.gpu is None else ("cpu", "cuda"),
        )  # fmt: skip
        directory = options.out or _new_directory(Path("runs"))
        meta = {
            "version": __version__, "started": datetime.now(UTC).isoformat(timespec="seconds"), "command": command,
            "preset": options.request.preset_name, "rounds": rounds, "limits": asdict(limits),
            "measure": _all_measured(order, standing), "fresh": processes.fresh, "gpu": place.gpu,
            "cases": [cases.to_dict(case) for case in planned],
        }  # fmt: skip
        _save_meta(directory, meta, new=not options.resume)
        try:
            with shown(planned) as show:
                outcome = schedule.run(directory, planned, order, processes, show)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(directory) from error
    if outcome.records and all(record.status == "unsupported" for record in outcome.records):
        raise errors.nothing_can_run(len(outcome.records), outcome.records[0].reason)
    return Finished(directory, outcome)


def _standing_run(options: Options) -> Run | None:
    """The run to go on with; None for a new one, which takes a directory that is empty or not there."""
    if options.retry_failed and not options.resume:
        raise errors.retry_without_resume()
    if options.out is None:
        if options.resume:
            raise errors.resume_without_run()
        return None
    try:
        if options.out.exists() and not options.out.is_dir():
            raise errors.unreadable_run(options.out, "not a directory")
        if not options.out.is_dir() or _is_unused(options.out):
            return None
    except OSError as error:  # a name that is too long, a directory that may not be looked into
        raise errors.unreadable_run(options.out, error.strerror or str(error)) from error
    if not options.resume:
        raise errors.run_exists(options.out)
    return records.load_plan(options.out)


def _is_unused(directory: Path) -> bool:
    """Whether nothing is in it, or only what another process makes before it writes `run.json`."""
    entries = [entry for entry in directory.iterdir() if not is_own_trace(entry.name)]
    return all(entry.name == "records" and entry.is_dir() and not any(entry.iterdir()) for entry in entries)


def _added(options: Options, standing: Run | None, processes: Processes) -> tuple[tuple[Case, ...], Place]:
    """The cases asked for by name, and where they are measured; devices and names are checked in a process of its own.

    Raises `LipbenchError` for what cannot be had here, and for a run that was begun on another GPU.
    """
    request = options.request
    as_it_stands = standing is not None and not request.names_cases
    if as_it_stands and request != Request():
        raise errors.resume_without_cases()
    added = () if as_it_stands else plan(request, "cpu")
    if standing is not None and as_it_stands:
        on_cpu = options.measure == ("certificate",)  # which nothing but a Triton kernel's needs a GPU for
        device = "cpu" if on_cpu or all(case.device == "cpu" for case in standing.planned) else "cuda"
        named = {case.spec.method: isinstance(case.spec, ExternalNetworkSpec) for case in standing.planned}
        methods: tuple[str, ...] = tuple(name for name, is_network in named.items() if not is_network)
        networks = tuple(name for name, is_network in named.items() if is_network)
        implementations = tuple(dict.fromkeys(case.spec.implementation for case in standing.planned))
        threads = max((case.threads for case in standing.planned), default=1)
        if on_cpu:
            implementations = tuple(name for name in implementations if not needs_triton(name))
    else:
        device, methods, implementations = options.device, request.method_names, request.implementation_names
        networks = request.external_networks
        threads = added[0].threads if added else 1
    place = processes.survey(methods, implementations, device, threads, networks)
    begun_on = standing.meta.get("gpu") if standing else None
    if place.gpu and begun_on and begun_on != place.gpu:
        raise errors.another_gpu(options.out, begun_on, place.gpu)
    return tuple(replace(case, device=place.device) for case in added), place


def _measured(options: Options, standing: Run | None) -> tuple[str, ...]:
    """What to measure: as asked, else all that the standing run was ever asked for."""
    if options.measure is not None:
        unknown = [name for name in options.measure if name not in MEASURED]
        if unknown:
            raise errors.unknown_choice("thing to measure", unknown[0], MEASURED)
        return options.measure
    return tuple(standing.meta.get("measure", MEASURED)) if standing else MEASURED


def _all_measured(order: Order, standing: Run | None) -> list[str]:
    """What the run was ever asked for, in the order of `MEASURED`."""
    ever = {*order.measure, *(standing.meta.get("measure", ()) if standing else ())}
    return [name for name in MEASURED if name in ever]


def _limits(options: Options, standing: Run | None) -> tuple[Limits, int]:
    """Limits of a round, and rounds of a case: as asked, else as in the standing run, else the preset's."""
    preset = PRESETS[options.request.preset_name]
    values: dict[str, Any] = {"phase_seconds": preset.phase_seconds}
    rounds = preset.rounds
    asked = {name: value for name, value in asdict(options.limits).items() if value is not None}
    try:
        if standing is not None:
            values |= asdict(from_json(Limits, standing.meta.get("limits", {})))
            rounds = int(standing.meta.get("rounds", rounds)) or rounds  # 0 of one that was not to be timed
        rounds = asked.pop("rounds", rounds)
        if TIME not in _measured(options, standing) and standing is None:
            rounds = 0
        return Limits(**values | asked), rounds
    except (TypeError, ValueError) as error:
        raise errors.unreadable_run(options.out, f"run.json: {error}") from error


def _new_directory(parent: Path) -> Path:
    """A directory of its own, named by the time in UTC."""
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for number in range(1, 1000):
        directory = parent / (name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise errors.not_writable(directory, error.strerror or str(error)) from error
        return directory
    raise errors.not_writable(parent, "a thousand runs began in this second")


def _save_meta(directory: Path, meta: dict[str, Any], new: bool) -> None:
    try:
        records.save_meta(directory, meta, new=new)
    except OSError as error:
        raise errors.not_writable(directory, error.strerror or str(error)) from error
