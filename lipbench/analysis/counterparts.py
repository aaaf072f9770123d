"""Which layers of two runs are the same one at different paths, such as those of two checkouts of one repository."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lipbench import external
from lipbench.store.records import Run


def matched(base: Run, head: Run) -> tuple[Run, list[str]]:
    """The base with the names of the head for files that are elsewhere there, and one line for each of them."""
    found = counterparts(_methods(base), _methods(head))
    records = tuple(
        replace(one, case=replace(one.case, spec=replace(one.case.spec, method=found[one.case.spec.method])))
        if one.case.spec.method in found
        else one
        for one in base.records
    )
    return replace(base, records=records), [f"{other} is compared with {own}" for own, other in found.items()]


def counterparts(base: Iterable[str], head: Iterable[str]) -> Mapping[str, str]:
    """Names of files that one run alone has → the name in the other run with the same file name, callable and settings.

    Of several, the one whose path has the longest common end, if no other one has as long an end.
    """
    base, head = set(base), set(head)
    found: dict[str, str] = {}
    for own in sorted(base - head):
        ends = {other: _common_end(own, other) for other in _alike(own, head - base)}
        best = [other for other, length in ends.items() if length == max(ends.values())]
        if len(best) == 1 and best[0] not in found.values():
            found[own] = best[0]
    return found


def _methods(run: Run) -> list[str]:
    return [record.case.spec.method for record in run.records]


def _alike(own: str, others: Iterable[str]) -> Iterator[str]:
    if external.is_external(own) and external.parse(own).is_file:
        yield from (other for other in others if external.is_external(other) and external.title(other) == external.title(own))


def _common_end(one: str, other: str) -> int:
    """Number of names at the end of both paths that are equal."""
    paths = (reversed(Path(external.parse(name).place).parts) for name in (one, other))
    count = 0
    for own, theirs in zip(*paths):
        if own != theirs:
            break
        count += 1
    return count
