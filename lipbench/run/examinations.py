"""Examinations: measurements without timing. Several run concurrently, since they do not need an otherwise idle machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from lipbench.cases import Case, needs_triton
from lipbench.run.book import Book, Progress
from lipbench.run.executor import Executor
from lipbench.store.rounds import Part, not_ok, with_notes


@dataclass(frozen=True)
class Job:
    """Untimed parts of a case, and the case as it is built to measure them."""

    case: Case
    place: Case
    parts: tuple[str, ...]


def jobs(case: Case, parts: Sequence[str]) -> list[Job]:
    """The jobs for some untimed parts of a case, by where each part is measured.

    Memory is measured where the case is timed, as are MACs on a GPU. MACs of CPU cases and certificates take one CPU thread.
    Weights are drawn on the CPU, so a certificate computed there holds for the same weights. Only Triton kernels must be
    certified where they run. What a report shows beside an external layer is counted like its memory and like its MACs.
    """
    aside = replace(case, device="cpu", threads=1, compile=False)
    on_cpu = case.device == "cpu"
    places = {"memory": case, "prediction": case, "formulas": aside, "macs": aside if on_cpu else replace(case, compile=False)}
    places["certificate"] = replace(case, compile=False) if needs_triton(case.spec.implementation) and not on_cpu else aside
    found: dict[Case, list[str]] = {}
    for part in parts:
        found.setdefault(places[part], []).append(part)
    return [Job(case, place, tuple(own)) for place, own in found.items()]


def jobs_left(book: Book, planned: Sequence[Case], *, elsewhere: bool = False) -> list[Job]:
    """The jobs that the book lacks: those that can run on the devices of this run, or those that can run only `elsewhere`."""
    found = [job for case in planned for job in jobs(case, book.lacks(case))]
    return [job for job in found if (job.place.device not in book.order.devices) == elsewhere]


def examine(book: Book, planned: Sequence[Case], executor: Executor, progress: Progress) -> bool:
    """Run all examinations that no other worker runs, on all cores; whether there were any.

    On Ctrl-C or a full disk, the executor is stopped without waiting for running jobs.
    """
    waiting = jobs_left(book, planned)
    threads = max((job.place.threads for job in waiting if job.place.device == "cpu"), default=1)
    begun = False
    with ThreadPoolExecutor(max(1, book.order.cores // threads)) as on_cpu, ThreadPoolExecutor(1) as on_gpu:
        pools = {"cpu": on_cpu, "cuda": on_gpu}
        running = [pools[job.place.device].submit(_examine, job, book, executor, progress) for job in waiting]
        try:
            for future in as_completed(running):
                begun |= future.result()
        except BaseException:
            executor.stop()
            for future in running:
                future.cancel()
            raise
    return begun


def _examine(job: Job, book: Book, executor: Executor, progress: Progress) -> bool:
    """Run one examination and store it; False if not started, because no time is left or another worker runs it."""
    if not book.has_time():
        return False
    with book.claimed(job.case) as is_own:
        limits = book.limits()
        with book.lock:
            parts = [name for name in job.parts if name in book.lacks(job.case)]
            failed = not_ok(book.records[job.case].parts)
        if not is_own or not parts:
            return False
        one = executor.run_round(job.place, limits, parts, failed)
        with book.lock:
            if not book.forgets(one, limits):
                # Parts that were not started get the status of the whole.
                whole = dict.fromkeys(parts, Part(one.status, one.reason, one.traceback))
                one = with_notes(replace(one, parts={**whole, **one.parts}))
                progress(*book.progress(), job.case, " and ".join(parts), book.failures())
                book.add(job.case, one, examination=True)
    return True
