"""Tasks shared by this process and by helpers, which are fresh processes on the other cores: whoever is free takes the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from lipbench.run.apart import Apart

Task = TypeVar("Task")
Result = TypeVar("Result")


def shared_out(
    tasks: Sequence[Task],
    here: Callable[[Task], Result],
    elsewhere: Callable[[Apart, Task], Result],
    helpers: int,
    timeout_s: float | None = None,
) -> list[Result]:
    """The results in the order of the tasks: `here(task)`, or `elsewhere(apart, task)` with the `Apart` of one of the helpers.

    The first exception of either ends the helpers and is raised.
    """
    waiting = deque(enumerate(tasks))
    found: dict[int, Result] = {}

    def work(do: Callable[[Task], Result]) -> None:
        while waiting:
            try:
                place, task = waiting.popleft()
            except IndexError:  # another one took the last
                return
            found[place] = do(task)

    with ThreadPoolExecutor(max(1, helpers)) as pool, ExitStack() as stack:
        places = [stack.enter_context(Apart(timeout_s)) for _ in range(helpers)]
        running = [pool.submit(work, partial(elsewhere, apart)) for apart in places]
        try:
            work(here)
            for one in running:
                one.result()
        except BaseException:
            waiting.clear()
            for apart in places:
                apart.stop()
            raise
    return [found[place] for place in range(len(tasks))]
