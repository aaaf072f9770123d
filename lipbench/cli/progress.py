"""The progress bar of a run, and the summary after it."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from lipbench.cases import Case
from lipbench.cli import streams, waiting
from lipbench.run.book import Progress, widest_reach
from lipbench.run.schedule import Outcome
from lipbench.store.rounds import STATUSES


@contextlib.contextmanager
def shown(cases: Sequence[Case]) -> Iterator[Progress]:
    """Show a progress bar on stderr while the block runs, or a line now and then if stderr is not a terminal."""
    places = {case: place for place, case in enumerate(cases, 1)}

    def described(case: Case, what: str) -> str:
        return f"case {places[case]}/{len(cases)}, {what}: {case.spec.slug}"

    if not sys.stderr.isatty():
        with waiting.in_lines() as say:
            yield lambda done, total, case, what, failed: say(f"{done}/{total} done, {failed} failed; {described(case, what)}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=Console(stderr=True), refresh_per_second=waiting.REFRESHES_PER_SECOND, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", failed=0)

        def show(done: int, total: int, case: Case, what: str, failed: int) -> None:
            bar.update(task, description=streams.shown(described(case, what)), completed=done, total=total, failed=failed)

        yield show


def reached(outcome: Outcome, target: float) -> str:
    """How narrow the intervals over rounds are, and which case has the widest one."""
    reaches = {record.case.id: widest_reach(record) for record in outcome.records if record.open_groups and record.rounds}
    if not reaches:
        return "no case has an interval"
    within = sum(reach <= target for reach in reaches.values())
    widest = max(reaches, key=reaches.__getitem__)
    return (
        f"{within} of {len(reaches)} cases have every interval within ± {100 * target:g} %; "
        f"the widest is ± {100 * reaches[widest]:.3g} %, of {widest}"
    )


def summary(outcome: Outcome, lacking: Iterable[tuple[str, str]] = ()) -> str:
    """Number of cases by status, each failure with its reason, cases that could not be stored, and the work left.

    `lacking` are pairs of a method and an implementation that it does not have: no cases.
    """
    found, left, elsewhere = outcome.records, outcome.left, outcome.elsewhere
    counts = Counter(record.status for record in found if record.sittings)
    counted = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    lines = [f"{len(found)} {'case' if len(found) == 1 else 'cases'}: {counted or 'none measured'}"]
    lines += [f"  {record.status}: {record.case.id}: {record.reason}" for record in found if record.status != "ok"]
    lines += [f"  not stored: {problem}" for problem in outcome.problems]
    lines += [f"  left out: {method} has no implementation {name}" for method, name in lacking]
    if left:
        lines.append(f"{left} {'round' if left == 1 else 'rounds'} left at the deadline; continue with --resume")
    if elsewhere:
        what = "examination needs" if elsewhere == 1 else "examinations need"
        lines.append(f"{elsewhere} {what} a GPU; continue with --resume on a machine that has one")
    return streams.shown("\n".join(lines))
