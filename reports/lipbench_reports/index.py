"""The index of many runs: one page in the report's look, and the same rows as text."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from lipbench_reports.cells import Cell, Column, Table
from lipbench_reports.page import ENVIRONMENT, digest, source
from lipbench_reports.tables import as_text

COLUMNS = (
    "run", "started", "version", "commit", "machine", "methods", "networks", "cases", "ok", "failed", "not_run", "trainings",
    "failures", "warnings", "report",
)  # fmt: skip
"""run: its folder, relative to the directory; started: ISO 8601, UTC; commit: of a base that another commit is compared with;
ok: cases that did not fail, also those that a method does not support; failures: statuses and their numbers; warnings: kinds
and numbers of cases, the worst first, then what could not be read; report: the name of its report, "" where there is none"""
TITLES = {
    "run": "Run", "started": "Started", "version": "Version", "commit": "Commit", "machine": "Machine", "methods": "Methods",
    "networks": "Networks", "cases": "Cases", "ok": "Ok", "failed": "Failed", "not_run": "Not run", "trainings": "Trainings",
    "failures": "What failed", "warnings": "Warnings", "report": "Report",
}  # fmt: skip
NUMBERS = ("cases", "ok", "failed", "not_run", "trainings")
OPTIONAL = {"commit": "", "networks": "", "not_run": 0, "trainings": 0, "failures": "", "report": ""}
"""columns that people see only where a run has another value"""
SHORT_COMMIT = 12


def sentence(frame: pd.DataFrame) -> str:
    """How many runs there are, from when to when, and how their cases ended."""
    days = sorted(as_text(day)[:10] for day in frame["started"] if as_text(day))
    when = "" if not days else f", {days[0]}" if days[0] == days[-1] else f", {days[0]} to {days[-1]}"
    parts = [
        f"{frame[name].sum()} {words}"
        for name, words in (("ok", "ok"), ("failed", "failed"), ("not_run", "not run"))
        if frame[name].sum() or name == "ok"
    ]
    trained = f"; {frame['trainings'].sum()} trainings" if frame["trainings"].sum() else ""
    runs = "1 run" if len(frame) == 1 else f"{len(frame)} runs"
    return f"{runs}{when}; {frame['cases'].sum()} cases: {', '.join(parts)}{trained}."


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows for people, without columns in which no run has anything."""
    shown = frame[[name for name in COLUMNS if name not in OPTIONAL or (frame[name] != OPTIONAL[name]).any()]]
    day = [as_text(value).replace("T", " ")[:16] for value in frame["started"]]
    texts = {"started": day, "commit": [as_text(value)[:SHORT_COMMIT] for value in frame["commit"]]}
    shown = shown.assign(**{name: values for name, values in texts.items() if name in shown})
    return shown.rename(columns=TITLES)


def render(frame: pd.DataFrame, folders: Sequence[str], reports: Sequence[str], directory: str) -> str:
    """The page. `folders` and `reports` are relative addresses of the rows, "" for a run without a report."""
    script = source("sort.js")
    return ENVIRONMENT.get_template("index.html").render(
        title=f"Runs in {directory}",
        verdict=sentence(frame),
        table=_table(frame, folders, reports),
        style=Markup(source("style.css")),
        script=Markup(script),
        script_digest=digest(script),
    )


def _table(frame: pd.DataFrame, folders: Sequence[str], reports: Sequence[str]) -> Table:
    links, nowhere = {"Run": folders, "Report": reports}, [""] * len(frame)
    shown = readable(frame)
    columns = [Column(str(title), numeric=title in {TITLES[name] for name in NUMBERS}) for title in shown]
    cells = [
        [_cell(value, column.numeric, link) for value, link in zip(shown[column.title], links.get(column.title, nowhere))]
        for column in columns
    ]
    return Table(columns, list(zip(*cells)), "Runs, the latest first")


def _cell(value: object, is_number: bool, link: str) -> Cell:
    text = as_text(value)
    return Cell(text or "–", (float(text) if is_number and text else text) or None, link=link)
