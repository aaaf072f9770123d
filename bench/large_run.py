"""The report and the export of a large run: how long they take, their peak memory and size, and the report's first paint.

`python -m bench.large_run RUN [--copies 42] [--out DIRECTORY]` copies the records of RUN to other batch sizes, 1 to the number
of copies, into a new run, which is kept only with `--out`. The copies have the results of the original: they are many, not
true. Each of `lipbench export` and `lipbench report` then runs in a process of its own. The first paint is Chromium's, where
Playwright and Chromium are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from lipbench.store.records import load_run, save
from lipbench.store.run_plan import save_plan

MIB = 2**20


@dataclass(frozen=True)
class Spent:
    """What a process took."""

    seconds: float
    processor_s: float
    """seconds of its processor time: what it takes on an idle machine, as long as one core does most of the work"""
    peak_bytes: int


def copied(source: Path, target: Path, copies: int) -> int:
    """Write the copies of a run as a new run; returns the number of its cases."""
    run = load_run(source)
    records = [
        replace(record, case=replace(record.case, batch_size=size)) for size in range(1, copies + 1) for record in run.records
    ]
    unique = list({record.case: record for record in records}.values())
    save_plan(target, replace(run.plan, cases=tuple(record.case for record in unique), out=str(target)), new=True)
    for record in unique:
        save(target, record)
    return len(unique)


def spent(*command: str) -> Spent:
    """Run a command of lipbench and wait for it. Raises `RuntimeError` where it fails.

    Exit code 3 is no failure: the run has problems.
    """
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "lipbench.cli", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise RuntimeError(f"lipbench {' '.join(command)} ended with code {process.returncode}")
    return Spent(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def first_paint_s(page: Path) -> float | None:
    """Seconds from navigation to the first contentful paint of a file in Chromium; None without Playwright or Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 800})
        opened.goto(page.resolve().as_uri(), wait_until="load")
        paint = "performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"
        opened.wait_for_function(f"{paint} > 0")
        milliseconds = float(opened.evaluate(paint))
        browser.close()
    return milliseconds / 1000


def main(arguments: list[str]) -> None:
    """Make the run, export it, write its report, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--copies", type=int, default=42)
    parser.add_argument("--out", type=Path, help="keep the run, the export and the report in this new directory")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        run = options.out or Path(temporary) / "run"
        count = copied(options.run, run, options.copies)
        print(f"{count} cases: {options.copies} copies of {options.run}")
        for verb, target in (("export", run / "all.csv"), ("report", run / "report.html")):
            found = spent(verb, str(run), "-o", str(target))
            size = target.stat().st_size / 1e6
            times = f"{found.seconds:.1f} s, {found.processor_s:.1f} s of processor time"
            print(f"{verb}: {times}, peak memory {found.peak_bytes / MIB:.0f} MiB, {size:.2f} MB")
        paint = first_paint_s(run / "report.html")
        print("first paint in Chromium:", "not measured" if paint is None else f"{paint:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
