"""The networks that can be recommended, with their certified robust accuracy and costs: published, predicted or measured.

Certified robust accuracies are the paper's, or those of trainings in a run. They are never mixed, since budgets differ.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import pandas as pd
from lipbench_reports.tables import Trained, number
from lipbench_reports.trainings import ARENA, CONDITIONS, RANKED_BY, Group, arenas, rows_of

from lipbench import errors, external, registry
from lipbench.analysis import accuracy
from lipbench.analysis.judging import EPOCH, MEMORY, QUANTITIES, THROUGHPUT, Candidate, Figure, Quantity
from lipbench.analysis.rows import measured_rows
from lipbench.cases import PAPER, PRECISIONS, WIDTHS, Case, ExternalNetworkSpec, NetworkSpec, network_of
from lipbench.prediction import memory, rates, time
from lipbench.prediction.rates import Rates
from lipbench.store.records import Run
from lipbench.train.task import CLASSES, DATASETS, IMAGE_SIZES, TrainingRecord

DATASET, BATCH_SIZE, GPU = "cifar10", 256, "A100"
"""the defaults where no run says otherwise: the paper's batch size, and the GPU of its epoch budgets"""
PUBLISHED_BATCH_SIZE = 256
"""the batch size of the published epoch budgets"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Among what to choose, and for which machine. What is None follows from the run, or has the default."""

    dataset: str | None = None
    batch_size: int | None = None
    hours: int = 24
    """of the published training whose accuracy counts"""
    methods: tuple[str, ...] = ()
    """empty: all"""
    networks: tuple[str, ...] = ()
    """sizes of the paper's ConvNet; empty: all"""
    implementations: tuple[str, ...] = (PAPER,)
    precision: str = "ieee"
    device: str | None = None
    """whose memory and times count; 'cuda' where a GPU is named"""
    gpu: str | None = None
    """a GPU of `rates` for predicted times"""

    def __post_init__(self) -> None:
        for what, given, known in (
            ("dataset", [self.dataset] if self.dataset else [], DATASETS),
            ("published training time in hours", [self.hours], accuracy.HOURS),
            ("network size", self.networks, tuple(WIDTHS)),
            ("implementation", self.implementations, _implementations()),
            ("precision", [self.precision], PRECISIONS),
        ):
            for one in given:
                if one not in known:
                    raise errors.unknown_choice(what, one, known)
        if self.gpu and self.device not in (None, "cuda"):
            raise errors.gpu_and_device(self.gpu, str(self.device))


def _implementations() -> tuple[str, ...]:
    """The names of implementations that some method has."""
    return tuple(dict.fromkeys(name for method in registry.METHODS.values() for name in method.implementations))


@dataclass(frozen=True)
class Ground:
    """What all candidates of an answer have in common."""

    dataset: str
    batch_size: int
    precision: str
    device: str
    rates: Rates | None
    """of the GPU or machine for which times are predicted; None: times are those that a run measured"""
    trained: str
    """the data set and the budget of the accuracies, in words"""
    train_images: int | None
    """number of images of an epoch; None where it is not known"""


def candidates(
    question: Question, run: Run | None, trainings: Sequence[TrainingRecord], limited: Container[Quantity] = ()
) -> tuple[Ground, list[Candidate], list[str]]:
    """What the candidates have in common, the candidates with their costs, and remarks on what was left out.

    Times are predicted, which takes seconds for each network, only where they are `limited`, or where a GPU is named.
    Raises `LipbenchError` for a data set of which neither the paper nor the run has accuracies, and for unknown methods.
    """
    groups, remarks = _own_groups(trainings, question.dataset)
    own = {accuracy.group_of(one.case): one for one in trainings}
    dataset = groups[0].text("dataset") if groups else question.dataset or DATASET
    if not groups and dataset not in accuracy.PUBLISHED_DATASETS:
        raise errors.no_accuracies(dataset, tuple(accuracy.PUBLISHED_DATASETS))
    if groups:
        found = [_of_group(one, own[one.identity]) for one in groups]
    else:
        found = list(_published(dataset, question))
    ground = _ground(question, dataset, groups, run, trainings)
    chosen = _chosen(found, question)
    measured = _measured(run) if run and not question.gpu else {}
    by_label = {} if question.gpu else {one.label: group for one, group in zip(found, groups)}
    wanted = {one for one in (EPOCH, THROUGHPUT) if question.gpu or one in limited}
    costs = [_costs(one, ground, measured, by_label.get(one.label), wanted) for one in chosen]
    return ground, [replace(one, costs=own_costs) for one, own_costs in zip(chosen, costs)], remarks


def _chosen(found: Sequence[Candidate], question: Question) -> list[Candidate]:
    """The candidates of the methods and sizes asked for. Raises `LipbenchError` where there are none."""
    known = {external.shown(one.spec.method) for one in found}
    for name in question.methods:
        if name not in known:
            raise errors.unknown_choice("method among those with an accuracy", name, known)
    chosen = [
        one for one in found
        if (not question.methods or external.shown(one.spec.method) in question.methods)
        and (not question.networks or network_of(one.spec) in question.networks)
    ]  # fmt: skip
    if not chosen:
        raise errors.no_candidates([one.label for one in found])
    return chosen


def _ground(
    question: Question, dataset: str, groups: Sequence[Group], run: Run | None, trainings: Sequence[TrainingRecord]
) -> Ground:
    devices = {one.case.device for one in trainings} | ({one.case.device for one in run.records} if run else set())
    only = next(iter(devices)) if len(devices) == 1 else "cuda"
    batches = {int(one.value("batch_size")) for one in groups}
    device = "cuda" if question.gpu else question.device or only
    return Ground(
        dataset,
        question.batch_size or (batches.pop() if len(batches) == 1 else BATCH_SIZE),
        question.precision,
        device,
        rates.named(question.gpu or GPU) if question.gpu or (run is None and device == "cuda") else None,
        _words(groups[0]) if groups else f"{dataset}, {question.hours} h of training on an A100",
        _train_images(dataset, trainings),
    )


def _train_images(dataset: str, trainings: Sequence[TrainingRecord]) -> int | None:
    own = [one.train_images for one in trainings if one.case.dataset == dataset and one.train_images]
    if own:
        return max(own)
    budgets = _budgets(dataset)
    return None if budgets.empty else int(budgets["train_images"].iloc[0])


def _budgets(dataset: str) -> pd.DataFrame:
    """The rows of the published epoch budgets for a data set."""
    table = pd.read_csv(str(files("lipbench.published") / "epoch_budget_2h.csv"))
    return table[table["dataset"] == accuracy.PUBLISHED_BUDGETS.get(dataset)]


# ------------------------------------------------------------------------------------------------------ who could be trained


def _published(dataset: str, question: Question) -> Iterator[Candidate]:
    """The networks of the paper that have an accuracy on a data set, in all sizes and in the implementations asked for."""
    table = accuracy.published(dataset)
    rows = {(row["title"], row["network"]): row for row in rows_of(table[table["hours"] == question.hours])}
    names = {method.title: method for method in registry.METHODS.values()}
    for title in dict.fromkeys(table["title"]):
        for size in WIDTHS:
            for implementation in question.implementations:
                if implementation in names[title].implementations:
                    spec = NetworkSpec(names[title].name, size, IMAGE_SIZES[dataset], implementation=implementation)
                    row = rows.get((title, size))
                    worth = _published_worth(row, dataset)
                    share = float(row["accuracy"]) if row is not None and worth.is_known else math.nan
                    yield Candidate(spec, _label(title, size, implementation), worth, accuracy=share)


def _label(title: str, network: str, implementation: str) -> str:
    return f"{title} {network}{'' if implementation == PAPER else f' · {implementation}'}"


def _published_worth(row: Mapping[str, Any] | None, dataset: str) -> Figure:
    if row is None:
        return Figure(why="the paper has no result")
    if row["accuracy"] <= 1 / CLASSES[dataset]:
        return Figure(why="the published training broke down")
    return Figure(row["cra_36"], "published")


def _own_groups(trainings: Sequence[TrainingRecord], dataset: str | None) -> tuple[list[Group], list[str]]:
    """The groups of trainings that may be compared across methods and sizes: of the conditions that most of them have."""
    found = arenas(Trained(accuracy.frame(trainings)), list(registry.methods())) if trainings else []
    groups = [one for arena in found for one in arena.groups if dataset in (None, one.text("dataset"))]

    def conditions(one: Group) -> tuple[object, ...]:
        return tuple(one.row[name] for name in ARENA if name != "network")

    kinds = [conditions(one) for one in groups]
    chosen = [one for one, kind in zip(groups, kinds) if kind == max(kinds, key=kinds.count)]
    left = len(groups) - len(chosen)
    plural = "" if left == 1 else "s"
    return chosen, [f"{left} group{plural} of trainings under other conditions left out."] if left else []


def _of_group(group: Group, record: TrainingRecord) -> Candidate:
    share = group.estimate(RANKED_BY)
    known = not group.hindrance
    worth = Figure(share.value, "measured", low=share.low, high=share.high) if known else Figure(why=group.hindrance)
    share_right = group.estimate("accuracy").value if known else math.nan
    return Candidate(record.case.network, f"{group.label} {network_of(record.case.network)}", worth, accuracy=share_right)


def _words(group: Group) -> str:
    """The conditions of a group of trainings, but for the network."""
    return ", ".join(words(group) for name, (_, words) in CONDITIONS.items() if name != "network")


# ------------------------------------------------------------------------------------------------------------- what they cost


def _measured(run: Run) -> dict[Case, dict[str, dict[str, Any]]]:
    """Case (with one thread and seed 0) → phase → its row, of networks with usable times; of several threads the fastest."""
    if not run.records:
        return {}
    rows = measured_rows(run)
    usable = rows[(rows["status"] == "ok") & ~rows["contended"].fillna(False) & ~rows["interpreted"].fillna(False)]
    by_case = {str(name): rows_of(own) for name, own in usable.groupby("case")}
    found: dict[Case, dict[str, dict[str, Any]]] = {}
    for record in run.records:
        own = found.setdefault(replace(record.case, threads=1, seed=0), {})
        for row in by_case.get(record.case.id, ()):
            if row["phase"] not in own or row["median_s"] < own[row["phase"]]["median_s"]:
                own[row["phase"]] = row
    return found


def _costs(
    one: Candidate,
    ground: Ground,
    measured: Mapping[Case, Mapping[str, Mapping[str, Any]]],
    group: Group | None,
    wanted: Collection[Quantity],
) -> dict[str, Figure]:
    """The costs of a candidate by the name of their quantity, each from the best evidence: measured, published, predicted."""
    case = Case(one.spec, ground.batch_size, precision=ground.precision, device=ground.device)
    found = _of_budget(one.spec, ground)
    found |= _of_phases(measured[case], ground) if case in measured else {}
    found |= _of_training(group, ground) if group else {}
    if external.is_external(one.spec.method):  # a prediction would run a stranger's code
        return {**_unknown("an external layer is not predicted here"), **found}
    if MEMORY.name not in found:
        found[MEMORY.name] = _predicted_memory(case)
    if ground.rates is None:
        return {**_unknown("neither measured in a run, nor predicted without the name of a GPU"), **found}
    if all(quantity.name in found for quantity in wanted):
        return found
    return {**_predicted_times(case, ground.rates, ground.train_images), **found}


def _unknown(why: str) -> dict[str, Figure]:
    return {quantity.name: Figure(why=why) for quantity in QUANTITIES}


def _of_training(group: Group, ground: Ground) -> dict[str, Figure]:
    """What a training measured: throughput in its evaluation, and the costs of its steps where the batch size is the one asked
    for."""
    if group.text("device") != ground.device:
        return {}
    columns = {THROUGHPUT.name: "images_per_second"}
    if group.value("batch_size") == ground.batch_size and group.text("precision") == ground.precision:
        columns |= {MEMORY.name: "peak_bytes", EPOCH.name: "seconds_per_epoch"}
    values = {name: group.value(column) for name, column in columns.items()}
    return {name: Figure(value, "measured") for name, value in values.items() if math.isfinite(value)}


def _of_phases(phases: Mapping[str, Mapping[str, Any]], ground: Ground) -> dict[str, Figure]:
    """What a profile measured of a network."""
    found: dict[str, Figure] = {}
    if "step" in phases:
        peak = number(phases["step"]["peak_memory_bytes"])
        found |= {MEMORY.name: Figure(float(peak), "measured")} if isinstance(peak, int) else {}
        if ground.train_images:
            steps = ground.train_images / ground.batch_size
            found[EPOCH.name] = Figure(steps * phases["step"]["median_s"], "measured")
    if "inference" in phases:
        found[THROUGHPUT.name] = Figure(ground.batch_size / phases["inference"]["median_s"], "measured")
    return found


def _of_budget(spec: NetworkSpec | ExternalNetworkSpec, ground: Ground) -> dict[str, Figure]:
    """The published time of an epoch, which is that of an A100 at the published batch size."""
    is_same = ground.rates is not None and ground.rates.name == GPU and ground.batch_size == PUBLISHED_BATCH_SIZE
    if not is_same or spec.implementation != PAPER or spec.method not in registry.METHODS:
        return {}
    known = {(row["layer"], row["size"]): row["train_seconds_per_epoch"] for row in rows_of(_budgets(ground.dataset))}
    seconds = known.get((registry.METHODS[spec.method].title, network_of(spec)), math.nan)
    return {EPOCH.name: Figure(seconds, "published")} if math.isfinite(seconds) else {}


def _predicted_memory(case: Case) -> Figure:
    try:
        return Figure(float(memory.step_peak(case)), "predicted")
    except errors.LipbenchError as error:
        return Figure(why=str(error))


def _predicted_times(case: Case, rates: Rates, train_images: int | None) -> dict[str, Figure]:
    """An epoch as its training steps, and the throughput of inference; a floor is a bound."""
    try:
        phases = {one.phase: one for one in time.predicted(case, rates)}
    except errors.LipbenchError as error:
        return _unknown(str(error))
    found = _unknown("its operations cannot be counted")
    if "step" in phases and train_images:
        seconds, is_floor = phases["step"].seconds, phases["step"].kind == "floor"
        found[EPOCH.name] = Figure(train_images / case.batch_size * seconds, "predicted", "at least" if is_floor else "")
    if "inference" in phases:
        seconds, is_floor = phases["inference"].seconds, phases["inference"].kind == "floor"
        found[THROUGHPUT.name] = Figure(case.batch_size / seconds, "predicted", "at most" if is_floor else "")
    return found
