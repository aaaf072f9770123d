"""Tasks that this process and helpers share: in order, each once, and ended together."""

from __future__ import annotations

import threading

import pytest

from lipbench.run import shared_out
from lipbench.run.apart import Apart
from lipbench.run.executor import StoppedError


class Silent(Apart):
    """Stands for a helper without processes; waits where it is told, until it is stopped."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self.stopped = threading.Event()

    def __exit__(self, *_: object) -> None:
        pass

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_out, "Apart", Silent)


def test_results_come_in_the_order_of_the_tasks() -> None:
    both = threading.Barrier(2)  # the helper and this process must both take one of the first two

    def here(task: int) -> tuple[str, int]:
        if task < 2:
            both.wait(60)
        return "here", task

    def elsewhere(apart: Apart, task: int) -> tuple[str, int]:
        return here(task)[0].replace("here", "there"), task

    found = shared_out.shared_out(range(9), here, elsewhere, 1)
    assert [task for _, task in found] == list(range(9))
    assert {"here", "there"} == {place for place, task in found if task < 2}


def test_without_helpers_all_is_done_here() -> None:
    assert shared_out.shared_out([1, 2], lambda task: -task, lambda *_: pytest.fail("no helper"), 0) == [-1, -2]
    assert shared_out.shared_out([], lambda task: task, lambda *_: pytest.fail("no helper"), 0) == []


def test_an_exception_here_ends_the_helpers() -> None:
    begun = threading.Event()

    def here(task: int) -> None:
        begun.wait(60)
        raise KeyboardInterrupt

    def elsewhere(apart: Silent, task: int) -> None:
        begun.set()
        apart.stopped.wait(60)
        raise StoppedError

    with pytest.raises(KeyboardInterrupt):
        shared_out.shared_out(range(9), here, elsewhere, 1)  # type: ignore[arg-type]


def test_an_exception_of_a_helper_is_raised() -> None:
    taken = threading.Event()

    def elsewhere(apart: Apart, task: int) -> int:
        taken.set()
        raise ValueError("there")

    with pytest.raises(ValueError, match="there"):
        shared_out.shared_out(range(2), lambda task: taken.wait(60), elsewhere, 1)
