"""The search for a learning rate and a weight decay: random draws, chosen on held-out images, then the final training.

A search trains each draw without the held-out images, chooses by their certified robust accuracy at the first of `RADII`, and
trains the best draw on all training images, once for each seed; these trainings are evaluated on the test images. This is the
search of arXiv 2311.16833. Draw n has the same rates for every network, loss and budget, so that no method is favoured.

With halving, all draws are first trained on a small budget, and the best share of them on a larger one, up to the full budget.
A longer one-cycle schedule is another training, so each of these steps, the rungs, is a study of its own with new trainings.

Any number of processes may run the same search in one output directory. A draw or final training is claimed while it is
trained (`store.claims`), and its result is stored when it has ended. If a process is killed, its claim is void and another
process goes on from its last checkpoint. The number and the rates of a draw do not depend on who trains it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lipbench import errors
from lipbench.store import claims
from lipbench.store.files import write_errors
from lipbench.train import records
from lipbench.train.studies import FOLDER, Drawn, Studies, drawn
from lipbench.train.task import Budget, Part, TrainingCase, TrainingRecord

LEASE_S, RENEW_S = 300.0, 60.0
"""a claim is in force for this long on other machines, beyond the grace of claims, and is renewed this often"""
POLL_S = 0.5
"""interval between looks at what other processes are training"""
SIGNIFICANT = 6
"""digits of the rates of a draw: as many as are written in the id of its case"""
Train = Callable[[TrainingCase, Path, Part], TrainingRecord]
"""trains or continues a case in its folder, and evaluates it on a part of the data"""
Progress = Callable[["Job", int, int, int], None]
"""(what is trained next, trainings finished, trainings in all, trainings that did not end well)"""


@dataclass(frozen=True)
class Space:
    """Where the rates are drawn from: both uniform in their logarithm, between the published ends."""

    learning_rate: tuple[float, float] = (1e-4, 1e-1)
    weight_decay: tuple[float, float] = (10**-5.5, 10**-3.5)
    seed: int = 0

    def draw(self, index: int) -> tuple[float, float]:
        """Learning rate and weight decay of a draw; they depend on the ends, the seed and the index alone."""
        chance = random.Random(f"{self.seed}/{index}")
        return _between(self.learning_rate, chance.random()), _between(self.weight_decay, chance.random())

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        return {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}

    @property
    def slug(self) -> str:
        """What distinguishes its draws from those of the published ends, for the name of a study."""
        ends = [f"{short}{low:g}..{high:g}" for short, (low, high), published in (
            ("lr", self.learning_rate, Space.learning_rate), ("wd", self.weight_decay, Space.weight_decay),
        ) if (low, high) != published]  # fmt: skip
        return "-".join([f"drawn{self.seed}", *ends])


def _between(ends: tuple[float, float], share: float) -> float:
    low, high = ends
    return min(high, max(low, float(f"{low * (high / low) ** share:.{SIGNIFICANT}g}")))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a search trains for each of its networks."""

    space: Space
    trials: int
    final: Budget
    """of the trainings of the best draw"""
    seeds: int
    """number of final trainings, with seeds from 0"""
    halving: int = 1
    """the best 1/halving of the draws go on to a budget that is as many times larger; 1 trains every draw on the full budget"""


@dataclass(frozen=True)
class Job:
    """A training that a search needs."""

    case: TrainingCase
    rung: int
    """number of the rung of a draw; of a final training, the number of rungs"""
    number: int
    """of a draw, or the seed of a final training"""
    study: str = ""
    """of a draw; "" for a final training"""

    @property
    def part(self) -> Part:
        """The part of the data that its network is evaluated on."""
        return "validation" if self.study else "test"


@dataclass(frozen=True)
class Rung:
    """The draws that are trained on one budget."""

    study: str
    budget: Budget
    wanted: tuple[int, ...]
    """numbers of the draws"""
    results: Mapping[int, Drawn]
    """of those that have finished"""

    @property
    def is_finished(self) -> bool:
        return len(self.results) == len(self.wanted)

    def best(self, most: int) -> tuple[int, ...]:
        """The numbers of the best draws that ended well, the best one first."""
        ended_well = sorted(
            (one for one in self.results.values() if one.status == "ok"), key=lambda one: one.rank, reverse=True
        )
        return tuple(one.index for one in ended_well[:most])


@dataclass(frozen=True)
class Search:
    """The search for one network as it stands."""

    template: TrainingCase
    """the case of its draws on the full budget; its rates are placeholders"""
    rungs: tuple[Rung, ...]
    """the last one may be unfinished; later ones are unknown until then"""
    best: Drawn | None
    """the best draw of the last rung; None while that is unfinished, and where no draw ended well"""
    finals: tuple[TrainingRecord, ...]
    jobs: tuple[Job, ...]
    """trainings that are not finished"""

    @property
    def results(self) -> tuple[Drawn, ...]:
        return tuple(one for rung in self.rungs for one in rung.results.values())

    @property
    def seconds(self) -> tuple[float, float]:
        """Training time of all draws, and what it would be without halving, estimated from the largest budget of each draw."""
        longest = {index: one.seconds * self.template.budget.amount / rung.budget.amount
                   for rung in self.rungs for index, one in rung.results.items()}  # fmt: skip
        return sum(one.seconds for one in self.results), sum(longest.values())


def study_name(template: TrainingCase, space: Space) -> str:
    """Name of a study: the id of its cases without the rates, and the draws where they are not the published ones."""
    return f"{replace(template, learning_rate=1.0, weight_decay=0.0).id.replace('-lr1-wd0', '')}-{space.slug}"


def rungs(trials: int, budget: Budget, halving: int) -> list[tuple[int, Budget]]:
    """Number of draws and budget of each rung, the full budget last.

    The last rung has at least `halving` draws, so that there is a choice. Budgets in epochs and steps are rounded up.
    """
    found = [(trials, budget)]
    while halving > 1 and found[-1][0] // halving >= halving:
        found.append((found[-1][0] // halving, budget))
    amounts = [budget.amount / halving**place for place in reversed(range(len(found)))]
    whole = budget.unit != "seconds"
    return [(draws, Budget(budget.unit, float(-(-amount // 1)) if whole else amount))
            for (draws, _), amount in zip(found, amounts, strict=True)]  # fmt: skip


def search(
    templates: Sequence[TrainingCase], options: Options, out: Path, train: Train, progress: Progress = lambda *_: None
) -> tuple[Search, ...]:
    """Train what is missing of the searches of all templates, together with other processes, and return them when they have
    ended.

    Raises `LipbenchError` as `train` does, where Optuna is not installed, and for files that cannot be read or written.
    """
    studies = Studies(out)
    while True:
        found = tuple(_search(template, options, studies, out) for template in templates)
        # Draws are interleaved over the networks: a search that is stopped early has as many for each.
        jobs = sorted((job for one in found for job in one.jobs), key=lambda job: (job.rung, job.number))
        if not jobs:
            return found
        show = _shown(found, options, progress)
        if not any(_done(job, options.space, studies, out, train, show) for job in jobs):
            time.sleep(POLL_S)


def _search(template: TrainingCase, options: Options, studies: Studies, out: Path) -> Search:
    """A search as it stands in the output directory."""
    found: list[Rung] = []
    sizes = rungs(options.trials, template.budget, options.halving)
    for draws, budget in sizes:
        wanted = found[-1].best(draws) if found else tuple(range(draws))
        name = study_name(replace(template, budget=budget), options.space)
        results = {index: one for index, one in studies.results(name).items() if index in wanted}
        found.append(Rung(name, budget, wanted, results))
        if not found[-1].is_finished:
            jobs = [Job(_case(template, options.space, index, budget), len(found) - 1, index, name)
                    for index in wanted if index not in results]  # fmt: skip
            return Search(template, tuple(found), None, (), tuple(jobs))
    chosen = found[-1].best(1)
    if not chosen:
        return Search(template, tuple(found), None, (), ())
    case = replace(_case(template, options.space, chosen[0], options.final), all_images=True)
    finals = [Job(replace(case, seed=seed), len(sizes), seed) for seed in range(options.seeds)]
    ended = {job: record for job in finals if (record := _final(job, out))}
    left = tuple(job for job in finals if job not in ended)
    return Search(template, tuple(found), found[-1].results[chosen[0]], tuple(ended.values()), left)


def _case(template: TrainingCase, space: Space, index: int, budget: Budget) -> TrainingCase:
    learning_rate, weight_decay = space.draw(index)
    return replace(template, learning_rate=learning_rate, weight_decay=weight_decay, budget=budget)


def _final(job: Job, out: Path) -> TrainingRecord | None:
    """The record of a final training; None if it has not ended."""
    folder = records.folder_of(out, job.case)
    if not (folder / records.FILE).exists():
        return None
    record = records.read(folder)
    return None if record.status == "running" else record


def _shown(found: Sequence[Search], options: Options, progress: Progress) -> Callable[[Job], None]:
    """`progress` with what has been done so far."""
    each = sum(draws for draws, _ in rungs(options.trials, found[0].template.budget, options.halving)) + options.seeds
    statuses = [one.status for search in found for one in search.results]
    statuses += [record.status for search in found for record in search.finals]
    done, failed = len(statuses), sum(status != "ok" for status in statuses)
    return lambda job: progress(job, done, each * len(found), failed)


def _done(job: Job, space: Space, studies: Studies, out: Path, train: Train, show: Callable[[Job], None]) -> bool:
    """Train a job, unless another process does or has done it; whether this one did."""
    directory, folder = out / FOLDER, records.folder_of(out, job.case)
    with contextlib.ExitStack() as stack:
        with write_errors(directory):
            is_own = stack.enter_context(claims.claimed(directory, job.case, LEASE_S))
        if not is_own or (job.number in studies.results(job.study) if job.study else _final(job, out)):
            return False
        show(job)
        with _renewed(directory, job.case):
            record = train(job.case, folder, job.part)
        if record.status == "running":
            raise errors.training_interrupted(folder, record.reason)
        if job.study:
            studies.add(job.study, drawn(job.number, record, folder), space.ranges, record.started)
    return True


@contextlib.contextmanager
def _renewed(directory: Path, case: TrainingCase) -> Iterator[None]:
    """Renew the claim on a case while the block runs."""
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(RENEW_S):
            with contextlib.suppress(OSError):  # such as a full disk; the next time may be better
                claims.renew(directory, case, LEASE_S)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
