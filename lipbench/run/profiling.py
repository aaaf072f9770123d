"""Runs a profile: from options to measured rounds in a new or resumed run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lipbench import __version__, errors
from lipbench.cases import PRESETS, Case, ExternalNetworkSpec, Limits, needs_triton
from lipbench.run import schedule
from lipbench.run.book import MEASURED, TIME, Order, Progress
from lipbench.run.consent import require_consent
from lipbench.run.executor import Executor, Place, Wanted
from lipbench.run.local import Local
from lipbench.run.plan import Request, plan
from lipbench.run.schedule import Outcome
from lipbench.store.files import is_own_trace, write_errors
from lipbench.store.rounds import HARMLESS
from lipbench.store.run_plan import RunPlan, load_plan, save_plan

RETRIES = 2
"""default of `Order.retries`"""

Shown = Callable[[Sequence[Case]], AbstractContextManager[Progress]]
"""Planned cases → a context manager that shows a run's progress."""


def _no_progress(planned: Sequence[Case]) -> AbstractContextManager[Progress]:
    return nullcontext(lambda *_: None)


@dataclass(frozen=True)
class LimitOptions:
    """Requested limits; None: those of the resumed run, or the default."""

    phase_seconds: float | None = None
    timeout_s: float | None = None
    memory_bytes: int | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Options:
    """Options of `lipbench profile`."""

    request: Request
    device: str
    limits: LimitOptions
    deadline_s: float | None = None
    out: Path | None = None
    resume: bool = False
    retry_failed: bool = False
    measure: tuple[str, ...] | None = None
    """of `book.MEASURED`; None: as in the resumed run, or all"""
    retries: int | None = None
    """as in `book.Order`, by default `RETRIES`"""
    retry_contended: bool = False
    target: float | None = None
    """as in `book.Order`"""
    fresh: str | None = None
    """`processes.FORK` or `processes.START`; None: the default of this system"""
    allow: tuple[str, ...] = ()
    """external layers and networks of the resumed run whose code may run, beside those that the request names"""


@dataclass(frozen=True)
class Finished:
    """A run that was completed or stopped at its deadline."""

    directory: Path
    outcome: Outcome
    lacking: tuple[tuple[str, str], ...] = ()
    """as in `executor.Place`: not measured"""

    @property
    def failed(self) -> bool:
        """Whether any case failed or could not be stored."""
        return bool(self.outcome.problems) or any(record.status not in HARMLESS for record in self.outcome.records)


class InterruptedRunError(KeyboardInterrupt):
    """Ctrl-C during a run; finished rounds are stored."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory))
        self.directory = directory


def profile(options: Options, command: str, shown: Shown = _no_progress, executor: Executor | None = None) -> Finished:
    """Measure the requested cases, and store each round in the run directory as soon as it is measured.

    `command` is stored in the run; `shown` shows progress; `executor` measures, by default on this machine. Raises
    `LipbenchError` for wrong use, and for a resumed run with external layers that the options do not name, before anything is
    written or loaded; also at the end if no case could run. Raises `InterruptedRunError` on Ctrl-C.
    """
    deadline = None if options.deadline_s is None else time.monotonic() + options.deadline_s
    standing = _standing_plan(options)
    if standing:
        named = (*(options.request.methods or ()), *(options.request.networks or ()), *options.allow)
        require_consent((case.spec for case in standing.cases), named)
    with ExitStack() as stack:
        executor = executor or stack.enter_context(Local(options.fresh))
        added, place = _added(options, standing, executor)
        planned = tuple(dict.fromkeys((*(standing.cases if standing else ()), *added)))
        limits, rounds = _limits(options, standing)
        order = Order(
            rounds, limits, _measured(options, standing), frozenset(added), options.retry_failed, deadline,
            ("cpu",) if place.gpu is None else ("cpu", "cuda"), place.cores, _retries(options), options.retry_contended,
            options.target,
        )  # fmt: skip
        directory = options.out or new_directory(Path("runs"))
        asked = RunPlan(
            version=__version__, started=datetime.now(UTC).isoformat(timespec="seconds"), command=command, out=str(directory),
            preset=options.request.preset_name, rounds=rounds, limits=limits, measure=_all_measured(order, standing),
            fresh=place.fresh, gpu=place.gpu, cases=planned,
        )  # fmt: skip
        with write_errors(directory):
            save_plan(directory, asked, new=not options.resume)
        try:
            with shown(planned) as show:
                outcome = schedule.run(directory, planned, order, executor, show)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(directory) from error
    if outcome.records and all(record.status == "unsupported" for record in outcome.records):
        raise errors.nothing_can_run(len(outcome.records), outcome.records[0].reason)
    return Finished(directory, outcome, place.lacking)


def _retries(options: Options) -> int:
    return RETRIES if options.retries is None else options.retries


def _standing_plan(options: Options) -> RunPlan | None:
    """The plan of the run to resume; None for a new run, whose directory must be empty or missing."""
    if (options.retry_failed or options.retry_contended) and not options.resume:
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
    except OSError as error:  # a name that is too long, a directory without read permission
        raise errors.unreadable_run(options.out, error.strerror or str(error)) from error
    if not options.resume:
        raise errors.run_exists(options.out)
    return load_plan(options.out)


def _is_unused(directory: Path) -> bool:
    """Whether a directory is empty, or holds only what another process creates before it writes `run.json`."""
    entries = [entry for entry in directory.iterdir() if not is_own_trace(entry.name)]
    return all(entry.name == "records" and entry.is_dir() and not any(entry.iterdir()) for entry in entries)


def _added(options: Options, standing: RunPlan | None, executor: Executor) -> tuple[tuple[Case, ...], Place]:
    """The cases that the options add, and where they are measured; the executor checks devices and names.

    Raises `LipbenchError` for cases that cannot be measured there, and for a run that was started on another GPU.
    """
    request = options.request
    as_it_stands = standing is not None and not request.names_cases
    if as_it_stands and request != Request():
        raise errors.resume_without_cases()
    if standing is not None and as_it_stands:
        on_cpu = options.measure == ("certificate",)  # only certificates of Triton kernels need a GPU
        device = "cpu" if on_cpu or all(case.device == "cpu" for case in standing.cases) else "cuda"
        named = {case.spec.method: isinstance(case.spec, ExternalNetworkSpec) for case in standing.cases}
        methods: tuple[str, ...] = tuple(name for name, is_network in named.items() if not is_network)
        networks = tuple(name for name, is_network in named.items() if is_network)
        implementations = tuple(dict.fromkeys(case.spec.implementation for case in standing.cases))
        threads: int | None = max((case.threads for case in standing.cases), default=1)
        if on_cpu:
            implementations = tuple(name for name in implementations if not needs_triton(name))
    else:
        plan(request, "cpu")  # raises for wrong sizes before a process is started
        device, methods, implementations = options.device, request.method_names, request.implementation_names
        networks = request.external_networks
        threads = next(iter(request.conditions.get("threads", ())), None)
    place = executor.survey(Wanted(methods, implementations, device, threads, networks))
    begun_on = standing.gpu if standing else None
    if place.gpu and begun_on and begun_on != place.gpu:
        raise errors.another_gpu(options.out, begun_on, place.gpu)
    return (() if as_it_stands else plan(request, place.device, place.cores, place.lacking)), place


def _measured(options: Options, standing: RunPlan | None) -> tuple[str, ...]:
    """What to measure: as requested, else everything that was ever requested of the resumed run."""
    if options.measure is not None:
        unknown = [name for name in options.measure if name not in MEASURED]
        if unknown:
            raise errors.unknown_choice("thing to measure", unknown[0], MEASURED)
        return options.measure
    return (standing.measure if standing else ()) or MEASURED


def _all_measured(order: Order, standing: RunPlan | None) -> tuple[str, ...]:
    """Everything that was ever requested of the run, in the order of `MEASURED`."""
    ever = {*order.measure, *(standing.measure if standing else ())}
    return tuple(name for name in MEASURED if name in ever)


def _limits(options: Options, standing: RunPlan | None) -> tuple[Limits, int]:
    """Limits of a round, and rounds per case: as requested, else as in the resumed run, else the preset's."""
    preset = PRESETS[options.request.preset_name]
    asked = {name: value for name, value in asdict(options.limits).items() if value is not None}
    if standing is None:
        limits, rounds = Limits(phase_seconds=preset.phase_seconds), preset.rounds
    else:
        limits, rounds = standing.limits or Limits(), standing.rounds or preset.rounds  # 0 rounds in a run without timing
    rounds = asked.pop("rounds", rounds)
    if TIME not in _measured(options, standing) and standing is None:
        rounds = 0
    return replace(limits, **asked), rounds


def new_directory(parent: Path) -> Path:
    """Create a new directory, named by the time in UTC."""
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
    raise errors.not_writable(parent, "999 run directories of this second exist")
