"""The Python API: what the verbs of the command line do, as functions. Import it as `import lipbench`.

Nothing heavy is imported before a function runs. Where a function takes a layer, it may be given as

- a name of `methods()`, or an external name (`package.module:name`, `file.py:name`), as on the command line;
- a callable that returns an `nn.Module`. Channels, kernel size and image size go to the parameters whose names mean them;
  `settings`, such as `{"stride": 2}` or "stride=2", are further arguments;
- a module that exists already, which is copied. Then the sizes say for which input it was made.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipbench.answer import Answer

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from lipbench.cases import Case, Spec
    from lipbench.quantities import Certificate
    from lipbench.run import profiling
    from lipbench.run.apart import Apart, EndedError
    from lipbench.run.plan import Request
    from lipbench.store.records import Run as StoredRun
    from lipbench.train.task import TrainingRecord

    Layer = str | Callable[..., nn.Module] | nn.Module
    Tell = Callable[[int, int, str], None]

Sizes = int | Sequence[int] | None
"""one size, several, or those by default"""
Settings = str | Mapping[str, object]
"""further arguments of external layers, by name or as text"""


def _silent(done: int, total: int, what: str) -> None:
    """Tells nobody how far a function is."""


@dataclass(frozen=True)
class Run:
    """A run that was measured and stored, or pytest-benchmark's JSON read as one, and the trainings in the same directory."""

    stored: StoredRun
    """records, plan and problems as plain data; without records in a directory of trainings alone"""
    trainings: tuple[TrainingRecord, ...] = ()
    unread: tuple[str, ...] = ()
    """records of trainings that could not be read, one line each"""

    @property
    def path(self) -> Path:
        """The run directory, or the JSON file."""
        return self.stored.path

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each thing that is missing from the run."""
        return (*self.stored.problems, *self.unread)

    def frame(self) -> pd.DataFrame:
        """One tidy row per case and phase, with theory beside measurement, in SI units; the columns of `lipbench export`.

        Raises `LipbenchError` for a directory that holds trainings alone.
        """
        from lipbench import errors
        from lipbench.analysis.rows import measured_rows

        if self.trainings and not (self.stored.records or self.stored.plan.cases):
            raise errors.only_trainings(self.path)
        return measured_rows(self.stored)

    def summary(self) -> Answer:
        """The answer of the run in a few lines, as `lipbench show` prints it: costs relative to the baseline, and the verdict.

        The frame has one row per series and measure, with the ratio and its 95 % interval. A directory of trainings alone gives
        their accuracy. Raises `LipbenchError` for a run without records.
        """
        from lipbench.analysis import summary, worth

        if self.trainings and not self.stored.records:
            return worth.answer(self.trainings, self.problems)
        found = summary.summary(self.stored)
        beside = (f"Trainings in the same directory: {len(self.trainings)}; see lipbench accuracy {self.path}.",)
        return replace(found, remarks=(*found.remarks, *(beside if self.trainings else ())), problems=self.problems)

    def report(self, path: str | Path | None = None, against: str | Path | None = None) -> Path:
        """Write the report as one HTML file and return its path, by default `report.html` in the run directory.

        With `against`, another run, a section shows what changed since that, as `compare` does.

        A link, a pipe or a device of the default name is not written to: a run may come from anywhere. Raises `LipbenchError`
        for a run without records, and where the file cannot be written.
        """
        from lipbench import errors
        from lipbench.analysis import document
        from lipbench.store.files import write_errors, write_file

        output = Path(path) if path else self.path / "report.html" if self.path.is_dir() else self.path.with_suffix(".html")
        if not path and (output.is_symlink() or (output.exists() and not output.is_file())):
            raise errors.not_writable(output, "a file of this name that is no regular one")
        base = load(against).stored if against else None
        content = document.document(self.stored, self.trainings, self.unread, base)
        with write_errors(output):
            write_file(output, content)
        return output

    def predicted(self, gpu: str | None = None, rates: str | Path | None = None) -> Answer:
        """Predicted beside measured times, and how far they are apart: floors on a named GPU, or estimates from `rates`, a file
        of `lipbench calibrate`, by default the one for all cores of this machine.

        The frame has rows with evidence `measured` and `predicted`. Raises `LipbenchError` where there are no rates, and for
        rates of another device than the run's.
        """
        from lipbench import errors
        from lipbench.analysis import predicted
        from lipbench.prediction import rates as known_rates

        known = known_rates.chosen(gpu, rates or known_rates.present())
        if known is None:
            raise errors.no_rates()
        return predicted.answer(self.stored, known)


def load(path: str | Path) -> Run:
    """The run in a run directory, or in a JSON file of pytest-benchmark, and the trainings in the directory.

    Raises `LipbenchError` for anything else.
    """
    from lipbench import errors
    from lipbench.store import benchmark_json
    from lipbench.store.records import Run as Stored
    from lipbench.store.run_plan import RunPlan
    from lipbench.train import records

    place = Path(path)
    trainings, unread = records.read_all(place) if os.path.isdir(place) else ([], [])
    try:
        stored = benchmark_json.load(place)
    except errors.LipbenchError as error:
        if not trainings:
            raise
        damaged = any(os.path.lexists(place / name) for name in ("run.json", "records"))
        stored = Stored(place, RunPlan(), (), (str(error),) if damaged else ())
    return Run(stored, tuple(trainings), tuple(unread))


def compare(
    base: str | Path,
    head: str | Path,
    *,
    slower: float = 0.05,
    memory: float = 0.05,
    fail_on: Sequence[str] = (),
    any_machine: bool = False,
    least_pairs: int = 5,
    alternating: bool = False,
) -> Answer:
    """What changed from one stored run to another, for the cases that both have.

    The frame has a row per case, phase and quantity (time, memory, MACs, exact constant), with a verdict. `slower` and `memory`
    are the relative changes up to which times and peaks count as the same; a time with fewer than `least_pairs` pairs of quiet
    rounds is UNCLEAR, unless it is far away. So is a contended one, unless it is far away and the rounds of both runs are
    `alternating`.

    The answer `failed` if a case fails in `head` alone, or by what `fail_on` names: "slower", "memory". It is `undecided` if
    "slower" is named and no time could be decided. Raises `LipbenchError` for runs without common cases, and for runs of two
    machines unless `any_machine`.
    """
    from lipbench.analysis import changes

    return changes.answer(load(base).stored, load(head).stored, slower, memory, fail_on, any_machine, least_pairs, alternating)


def methods() -> pd.DataFrame:
    """One row per method: name, title, source, what it claims, its implementations and iterations."""
    from lipbench.prediction import table1

    return table1.methods_table()


def verify(module: nn.Module, x: Tensor) -> Certificate:
    """Bounds of a module's Lipschitz constant in evaluation and in training mode, for inputs of the size of `x`, (b, c, s, s).

    The module stays as it is: a float64 copy is examined. The first bound of a mode is the one to quote; its `kind` says
    whether it is exact. A layer with Triton kernels is examined in float32, as they compute. Its errors are passed on.
    """
    from lipbench.run import certifying

    return certifying.certified(module, x)


def complexity(
    *layers: Layer,
    channels: Sizes = None,
    image_size: Sizes = None,
    kernel_size: Sizes = None,
    batch_size: Sizes = None,
    timeout_s: float | None = None,
    settings: Settings = "",
    tell: Tell = _silent,
) -> Answer:
    """Formulas of what layers cost, in the form of Table 1 of arXiv 2311.16833, from counts on fake tensors; nothing is timed.

    Sizes are those to count at; batch sizes are at least two. The frame has a row per layer, half and quantity (real MACs, real
    elements kept for the backward pass), with every term of the formula. A layer given by an external name is counted in a
    fresh process, for at most `timeout_s`, by default 300; if that ends without an answer, the reason is among the answer's
    problems. `tell` is called before each layer, with how many are done, of how many, and its name. Raises `LipbenchError` for
    a layer that cannot be counted.
    """
    from lipbench.answer import joined
    from lipbench.cases import LayerSpec
    from lipbench.prediction import answers, complexity
    from lipbench.run.apart import Apart

    sizes = {"c": channels, "s": image_size, "k": kernel_size, "b": batch_size}
    given = complexity.given({symbol: _several(value) for symbol, value in sizes.items()})
    parts, expanded = [], _expanded(layers)
    with Apart(timeout_s) as apart:
        for number, layer in enumerate(expanded):
            with _named(layer, settings) as (name, is_live):  # a live one may be another under the same name: it is not cached
                tell(number, len(expanded), name)
                if _is_foreign(layer):
                    parts += _from_apart(apart, LayerSpec(name, 1, 1, 1), {"layer": name, "given": given}, [name])
                else:
                    parts.append(answers.of_layer(name, given, is_cached=not is_live).plain())
    found = joined(parts)
    notes = found.remarks
    return replace(found, remarks=(*notes, *([""] if notes else []), *complexity.LEGEND))


def predict(
    *layers: Layer,
    device: str = "cpu",
    memory_bytes: int | None = None,
    gpu: str | None = None,
    rates: str | Path | None = None,
    timeout_s: float | None = None,
    tell: Tell = _silent,
    **axes: Any,
) -> Answer:
    """How much memory and time training and inference take, counted from shapes alone: nothing is computed, no GPU is needed.

    `device` is 'cpu' or 'cuda', whose memory it is. With `memory_bytes`, the column `fits` says what stays within it. Times are
    floors on a named `gpu`, whose memory it then is, or on a CPU estimates from `rates`, a file of `lipbench calibrate`, by
    default the one for all cores of this machine. `axes` are those of `profile`. The frame has a row per case, in bytes and
    seconds. Each case of a layer or network given by an external name is predicted in a fresh process, for at most `timeout_s`,
    by default 300. Cases that cannot be predicted are among the answer's problems. `tell` is called before each case, with how
    many are done, of how many, and its name. Raises `LipbenchError` for sizes that no case can have, and for an unknown GPU.
    """
    from lipbench.prediction import rates as known_rates
    from lipbench.prediction import time

    device = "cuda" if gpu else device
    place = (rates or known_rates.present()) if device == "cpu" else None
    known = known_rates.chosen(gpu, place)
    question = {"memory_bytes": memory_bytes, "gpu": gpu, "rates": str(place) if place else None}
    found = _predicted(layers, axes, device, timeout_s, question, tell)
    return replace(found, remarks=(*found.remarks, time.note(known)))


def fits(
    *layers: Layer,
    memory_bytes: int,
    device: str = "cuda",
    timeout_s: float | None = None,
    tell: Tell = _silent,
    **axes: Any,
) -> Answer:
    """The largest batches that fit into a memory, for a training step and for inference, found by predictions.

    `axes` are those of `profile`, without batch sizes. The frame has a row per case: the batch, 0 where one image does not fit,
    and its peak in bytes. Each batch fits, and one image more does not, up to 65,536. `device`, `timeout_s` (for one case),
    `tell` and errors are as for `predict`.
    """
    from lipbench import errors

    if "batch_size" in axes:
        raise errors.batch_is_sought()
    question = {"memory_bytes": memory_bytes, "largest": True}
    return _predicted(layers, {**axes, "batch_size": 1}, device, timeout_s, question, tell)


def recommend(
    *methods: str,
    memory_bytes: int | None = None,
    batch_size: int | None = None,
    dataset: str | None = None,
    min_images_per_s: float | None = None,
    max_epoch_s: float | None = None,
    gpu: str | None = None,
    run: Run | str | Path | None = None,
    hours: int = 24,
    network: str | Sequence[str] | None = None,
    implementation: str | Sequence[str] | None = None,
    precision: str = "ieee",
    device: str | None = None,
    figure: str | Path | None = None,
) -> Answer:
    """Which method in which network size: ranked by certified robust accuracy, among those that satisfy the limits.

    Accuracies are the paper's after `hours` of training (2, 10 or 24), or those of the trainings in `run`. Costs are measured
    in the run, published, or predicted, and the frame says which; what is unknown, or only bounded, never satisfies a limit.
    The limits are those of a training step with `batch_size` images in bytes, of inference in images per second, and of an
    epoch in seconds. `methods`, `network` and `implementation` restrict the choice; the default implementation is 'paper'.
    `figure` is the path of an SVG file with accuracy against costs and the Pareto fronts. The frame has a row per candidate,
    best first. Raises `LipbenchError` for a data set of which neither the paper nor the run has accuracies, for an unknown
    method, size, GPU or budget, and where the figure cannot be written.
    """
    from lipbench.analysis import recommendation
    from lipbench.analysis.candidates import Question
    from lipbench.analysis.judging import EPOCH, MEMORY, THROUGHPUT
    from lipbench.store.files import write_errors, write_file

    question = Question(
        dataset=dataset, batch_size=batch_size, hours=hours, methods=methods, networks=_several(network) or (),
        implementations=_several(implementation) or ("paper",), precision=precision, device=device, gpu=gpu,
    )  # fmt: skip
    given = {MEMORY: memory_bytes, EPOCH: max_epoch_s, THROUGHPUT: min_images_per_s}
    limits = {quantity: float(limit) for quantity, limit in given.items() if limit is not None}
    found = run if isinstance(run, Run) or run is None else load(run)
    made = recommendation.recommend(question, limits, *((found.stored, found.trainings) if found else ()))
    if figure is not None:
        with write_errors(Path(figure)):
            write_file(Path(figure), recommendation.figure(made))
    answer = recommendation.answer(made)
    return replace(answer, problems=found.problems) if found else answer


def _predicted(
    layers: Sequence[Layer], axes: dict[str, Any], device: str, timeout_s: float | None, question: Mapping[str, Any], tell: Tell
) -> Answer:
    """The answers of `prediction.answers` to a question about all cases: about external names from a fresh process for each."""
    from lipbench import cases, registry
    from lipbench.answer import joined
    from lipbench.cases import NetworkSpec
    from lipbench.cores import usable_cores
    from lipbench.prediction import answers, memory
    from lipbench.run.apart import Apart
    from lipbench.run.plan import plan
    from lipbench.run.shared_out import shared_out

    with _all_named(layers) as (names, is_live), Apart(timeout_s) as apart:
        request = _request(names, axes)
        lacking = registry.lacking(request.method_names, request.implementation_names)
        planned = plan(request, device, lacking=lacking)
        answers.require_known(dict.fromkeys(case.spec.method for case in planned))
        own = {name for name, layer in zip(names, layers) if not _is_foreign(layer)}
        foreign = [case for case in planned if case.spec.method not in own and apart.is_for(case.spec)]
        groups: dict[object, list[Case]] = {}
        for case in planned:  # those of one method together: see `largest`
            groups.setdefault(case if case in foreign else (case.spec.method, case.spec.implementation), []).append(case)

        def elsewhere(apart: Apart, group: Sequence[Case]) -> list[dict[str, Any]]:
            asked = {**question, "cases": [cases.to_dict(case) for case in group]}
            return _from_apart(apart, group[0].spec, asked, [case.id for case in group])

        def here(group: Sequence[Case]) -> list[dict[str, Any]]:
            tell(planned.index(group[0]), len(planned), group[0].spec.slug)
            return elsewhere(apart, group) if group[0] in foreign else [one.plain() for one in answers.each(group, question)]

        slow = [group for group in groups.values() if isinstance(group[-1].spec, NetworkSpec)]  # a network takes seconds
        helpers = 0 if is_live else max(0, min(usable_cores(), len(slow)) - 1)
        found = shared_out([*groups.values()], here, elsewhere, helpers, timeout_s)
    by_case = {case: part for group, parts in zip(groups.values(), found) for case, part in zip(group, parts, strict=True)}
    answer = joined([by_case[case] for case in planned])
    assert answer.readable is not None
    left_out = tuple(f"Left out: {method} has no implementation {name}." for method, name in lacking)
    return replace(answer, readable=memory.narrowed(answer.readable), remarks=(memory.NOTES[device], *left_out))


def breakdown(
    *layers: Layer,
    device: str = "auto",
    seconds: float = 3.0,
    trace: str | Path | None = None,
    timeout_s: float | None = None,
    **axes: Any,
) -> Answer:
    """Time, memory and MACs of each layer of one network, for a training step and for inference.

    Memory and MACs are counted from shapes. Times are measured in one process, with a clock at every layer of the running
    network, for about `seconds` in training and as many in inference. `trace` is a file for the trace of a step in Chrome's
    format. `axes` are those of `profile`, with one value each. The frame has a row per layer, in bytes, MACs and seconds; what
    fails is among the answer's problems. Each of both is found in a fresh process, for at most `timeout_s`, by default 300.
    Raises `LipbenchError` for several cases, for a case that cannot be built, and for a trace that cannot be written.
    """
    from lipbench.run.apart import EndedError

    counts = times = ended = None
    with _one_case(layers, device, timeout_s, axes) as (case, ask):
        try:
            counts = ask("counts")
            times = ask("times", limit_s=seconds, trace=None if trace is None else str(Path(trace).resolve()))
        except EndedError as error:
            ended = error
    from lipbench.analysis import breakdown  # which imports torch: not while another process measures

    found = breakdown.answer(case, counts, times)
    return found if ended is None else _failed(found, f"{'counts' if counts is None else 'times'} of {case.id}", ended)


def memory_over_time(*layers: Layer, device: str = "auto", timeout_s: float | None = None, **axes: Any) -> Answer:
    """The memory after every operation of a training step of one layer or network, from shapes alone.

    The frame has a row per operation, in bytes: those in use after it, and the most during it. The readable table says what
    holds the memory at the peak. A `device` that is given need not exist; other arguments and errors are those of `breakdown`.
    """
    from lipbench.analysis import breakdown
    from lipbench.run.apart import EndedError

    with _one_case(layers, device, timeout_s, axes) as (case, ask):
        try:
            return breakdown.over_time(case, ask("over time"))
        except EndedError as error:
            return _failed(breakdown.answer(case, None, None), case.id, error)


def _failed(found: Answer, what: str, error: EndedError) -> Answer:
    tracebacks = (error.traceback,) if error.traceback else ()
    return replace(found, problems=(f"{what}: {error}",), failed=True, tracebacks=tracebacks)


@contextlib.contextmanager
def _one_case(
    layers: Sequence[Layer], device: str, timeout_s: float | None, axes: dict[str, Any]
) -> Iterator[tuple[Case, Callable[..., dict[str, Any]]]]:
    """The case of a request, and a function that has `run.breakdown` answer about it: here for a layer of this process alone.

    Raises `LipbenchError` for another number of cases, and for a compiled or exported one.
    """
    from lipbench import cases, errors
    from lipbench.cores import usable_cores
    from lipbench.run.apart import Apart
    from lipbench.run.executor import Place, Wanted
    from lipbench.run.plan import plan

    with _all_named(layers) as (names, is_live), Apart(timeout_s) as apart:
        request = _request(names, axes)
        place = apart.survey(Wanted((), (), device)) if device == "auto" else Place(device, cores=usable_cores())
        planned = plan(request, place.device, place.cores)
        if len(planned) != 1:
            raise errors.not_one_case(len(planned))
        case = planned[0]
        if case.compile or case.exported:
            raise errors.no_parts()

        def ask(about: str, **further: Any) -> dict[str, Any]:
            question = {"case": cases.to_dict(case), "about": about, **further}
            if is_live:
                from lipbench.run import breakdown

                return breakdown.answer(question)
            if apart.is_for(case.spec):
                apart.check(case.spec)
            found: dict[str, Any] = apart.ask("lipbench.run.breakdown", case.spec, question, case.threads)
            return found

        yield case, ask


def _is_foreign(layer: Layer) -> bool:
    """Whether a layer is given by an external name: its code is not part of this process yet, and is run in another one."""
    return isinstance(layer, str) and ":" in layer


def _from_apart(apart: Apart, spec: Spec, question: dict[str, Any], whats: Sequence[str]) -> list[dict[str, Any]]:
    """The answers of `prediction.answers` from a fresh process, in the form of `Answer.plain`, about each of `whats`.

    If there are none, the reason in their place.
    """
    from lipbench.answer import joined
    from lipbench.run.apart import EndedError

    try:
        if apart.is_for(spec):
            apart.check(spec)
            answers = apart.ask("lipbench.prediction.answers", spec, question)
        else:  # code of this package, which ends
            answers = apart.ask("lipbench.prediction.answers", spec, question, timeout_s=math.inf)
        found = [joined([one]).plain() for one in answers]
        if len(found) != len(whats):
            raise ValueError
        return found
    except EndedError as error:
        why, traceback = str(error), error.traceback
    except (ValueError, TypeError, KeyError):  # a layer may forge an answer
        why, traceback = "its process gave an answer that is none", ""
    nothing: dict[str, Any] = {"columns": [], "rows": []}
    missing = {"frame": nothing, "readable": nothing, "remarks": [], "failed": True,
               "tracebacks": [traceback] if traceback else []}  # fmt: skip
    return [{**missing, "problems": [f"{what}: {why}"]} for what in whats]


def profile(
    *layers: Layer,
    out: str | Path | None = None,
    device: str = "auto",
    rounds: int | None = None,
    retries: int | None = None,
    phase_seconds: float | None = None,
    timeout_s: float | None = None,
    memory_limit_bytes: int | None = None,
    deadline_s: float | None = None,
    measure: Sequence[str] | None = None,
    resume: bool = False,
    allow: Sequence[str] = (),
    **axes: Any,
) -> Run:
    """Measure layers over shapes and store the records in a run directory, by default a new one in `runs/`.

    Layers that can be imported are measured as on the command line: every round in a fresh process. A layer that exists in this
    process alone, such as a class in a notebook or a module, is measured in this process, in one round, with all other layers
    of the same call. Every record says so: how much processes differ is not known then, and a crash ends this process.

    `axes` are what to measure, each one value or several: `preset`, `implementation`, `channels`, `image_size`, `kernel_size`,
    `batch_size`, `network`, and the conditions of a case: `dtype`, `precision`, `threads`, `compile`, `exported`,
    `recompute`. Without sizes, those of the preset `quick`. For external layers also `settings`, further arguments, and
    `lipschitz`, the constant that they claim. A module has one size of each, and its `kernel_size` is a mere label. The limits
    are those of `lipbench profile`: `rounds` processes per case, and up to `retries` more for contended ones (by default 2),
    `phase_seconds` for each phase, `timeout_s` for a round, `deadline_s` for everything.

    A resumed run imports the external layers of its plan only where they are among `layers`, `network` or `allow`.

    Raises `LipbenchError` for wrong use, before anything is written, and afterwards if not a single case could run.
    """
    from lipbench.run import profiling
    from lipbench.run.inprocess import InProcess

    limits = profiling.LimitOptions(phase_seconds, timeout_s, memory_limit_bytes, rounds)
    with _all_named(layers) as (names, is_live):
        executor = InProcess() if is_live else None
        limits = _of_one_process(limits) if is_live else limits
        options = profiling.Options(
            _request(names, axes),
            device,
            limits,
            deadline_s,
            Path(out) if out else None,
            resume,
            measure=_several(measure),
            retries=retries,
            allow=tuple(allow),
        )
        finished = profiling.profile(options, "lipbench.profile(…)", executor=executor)
    return load(finished.directory)


def _of_one_process(limits: profiling.LimitOptions) -> profiling.LimitOptions:
    """Raises `LipbenchError` for what a process cannot do with itself."""
    from lipbench import errors

    if limits.rounds not in (None, 1) or limits.timeout_s is not None or limits.memory_bytes is not None:
        raise errors.one_process()
    return replace(limits, rounds=1)


# ------------------------------------------------------------------------------------------------------- names and sizes


_CONDITIONS = ("dtype", "precision", "threads", "compile", "exported", "recompute")
_AXES = {
    "implementation": "implementations", "channels": "channels", "image_size": "image_sizes", "kernel_size": "kernel_sizes",
    "batch_size": "batch_sizes", "network": "networks",
}  # fmt: skip
"""name of an argument → field of `Request`"""


def _request(names: Sequence[str], axes: dict[str, Any]) -> Request:
    from lipbench import errors
    from lipbench.run.plan import Request, conditions

    known = ("preset", "settings", "lipschitz", *_AXES, *_CONDITIONS)
    if unknown := [name for name in axes if name not in known]:
        raise errors.unknown_choice("argument", unknown[0], known)
    chosen: dict[str, Any] = {field: _several(axes[name]) for name, field in _AXES.items() if name in axes}
    asked = {name: _several(axes[name]) for name in _CONDITIONS if name in axes}
    chosen |= {"preset": axes.get("preset"), "settings": _text(axes.get("settings", "")), "claim": axes.get("lipschitz", 1.0)}
    return Request(methods=tuple(names) or None, **chosen, conditions=conditions(**asked))


def _text(given: Settings) -> str:
    from lipbench import settings

    return settings.joined(given) if isinstance(given, str) else settings.write(given)


def _expanded(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, with the names of all installed peers in place of "peers"."""
    from lipbench import adapters

    return [one for layer in layers for one in (adapters.expand([layer]) if isinstance(layer, str) else [layer])]


def _several(value: Any) -> tuple[Any, ...] | None:
    """One value or several as a tuple; None stays None."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


@contextlib.contextmanager
def _named(layer: Layer, settings: Settings = "") -> Iterator[tuple[str, bool]]:
    """A name, with settings, under which the layer can be built in this block, and whether only this process can build it."""
    from lipbench import calling, external

    text = _text(settings)
    if isinstance(layer, str):
        external.check_options([layer], text, 1.0)
        yield external.absolute(layer, text), False
    elif name := calling.importable_name(layer):
        yield external.absolute(name, text), False
    else:
        with calling.in_this_process(layer) as name:
            yield external.absolute(name, text), True


@contextlib.contextmanager
def _all_named(layers: Sequence[Layer]) -> Iterator[tuple[list[str], bool]]:
    """Names of all layers, and whether only this process can build one of them."""
    with contextlib.ExitStack() as stack:
        named = [stack.enter_context(_named(layer)) for layer in layers]
        yield [name for name, _ in named], any(is_live for _, is_live in named)
