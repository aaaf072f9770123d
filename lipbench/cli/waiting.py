"""The bar of a verb that may take seconds. This file imports nothing heavy, since every such verb imports it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from lipbench.cli import streams

REFRESHES_PER_SECOND = 1
"""low, so that drawing does not disturb the timing"""
DELAY_S = 1.0
"""a verb that is done sooner shows no progress"""
PERIOD_S = 30.0
"""time from one line of progress to the next where stderr is not a terminal"""
Tell = Callable[[int, int, str], None]
"""how many answers there are, of how many, and what the next one is about"""


@contextlib.contextmanager
def in_lines() -> Iterator[Callable[[str | Callable[[], str]], None]]:
    """Print every `PERIOD_S` seconds, while the block runs, the last text that it gave, with the time since its begin.

    In place of a text, it may give a function that returns one.
    """
    last: list[str | Callable[[], str]] = [""]
    began, over = time.monotonic(), threading.Event()

    def run() -> None:
        while not over.wait(PERIOD_S):
            minutes, seconds = divmod(round(time.monotonic() - began), 60)
            text = last[0] if isinstance(last[0], str) else last[0]()
            if text:
                streams.complain(f"lipbench: {minutes}:{seconds:02} {streams.shown(text)}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield lambda text: last.__setitem__(0, text)
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def of(words: str) -> Iterator[Tell]:
    """Show on stderr that this verb is at work while the block runs: for how long, and how many answers there are.

    Nothing is shown in the first second. If stderr is not a terminal, it gets a line now and then.
    """
    if not sys.stderr.isatty():
        with in_lines() as say:
            say(words)
            yield lambda done, total, what: say(f"{words} {done + 1}/{total}: {what}" if what else words)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), refresh_per_second=REFRESHES_PER_SECOND, transient=True,
        redirect_stdout=False, redirect_stderr=False,  # the bar starts in another thread, at any moment
    )  # fmt: skip
    task = bar.add_task(words, total=None)

    def tell(done: int, total: int, what: str) -> None:
        text = f"{words} {done + 1}/{total}: {what}" if what else words
        bar.update(task, description=streams.shown(text), completed=done, total=total)

    over = threading.Event()

    def start() -> None:
        if not over.wait(DELAY_S):
            bar.start()

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        over.set()
        thread.join()
        bar.stop()
