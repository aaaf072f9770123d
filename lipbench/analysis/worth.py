"""The Answers of the verb `accuracy`: the table of trainings, the draws of searches, and the paper's results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from lipbench_reports.intervals import Estimate
from lipbench_reports.tables import Trained
from lipbench_reports.trainings import ATTACKED, CERTIFIED, RADII, Arena, Group, arenas, rows_of, sentence

from lipbench import registry
from lipbench.analysis import accuracy
from lipbench.answer import Answer
from lipbench.train.task import TrainingRecord

RADII_REMARK = (
    "CRA r: certified robust accuracy, the share of test images whose class no perturbation of Euclidean norm r/255 can "
    "change, for pixels in [0, 1]. Attacked r: the share that an attack of that radius left correct. All shares are in %."
)
SPREAD_REMARK = (
    "Means over seeds; ± is half of the 95 % interval by Student's t, from three seeds on, for the same test images."
)
PLACE_REMARK = (
    "Place: by CRA 36, among trainings with the same data, size, loss, budget and kind of machine; a range where intervals "
    "overlap or are unknown."
)
NO_BOUND_REMARK = (
    "A network without a proved Lipschitz constant has no CRA; where the constant is above 1, it divides the margins."
)
SAME_TIME_REMARK = "Equal seconds gave different numbers of epochs: see the column Epochs."


def answer(records: Sequence[TrainingRecord], problems: Iterable[str] = ()) -> Answer:
    """The table of final trainings. It failed if an attack left less accuracy than was certified."""
    frames = Trained(accuracy.frame(records))
    found = arenas(frames, list(registry.methods()))
    wrong = [f"{one.label} ({arena.words}): {one.hindrance}; its certificate is wrong"
             for arena in found for one in arena.groups if one.row["below_certified"]]  # fmt: skip
    draws = len(records) - int(frames.table["trainings"].sum())
    hidden = [f"{draws} draws of searches are left out: print them with --draws."] if draws else []
    remarks = ["", *_conclusions(found), *_explained(found, frames.table), *hidden]
    return Answer(frames.table, _readable(found), tuple(remarks), (*problems, *wrong), bool(wrong))


def draws(records: Sequence[TrainingRecord], problems: Iterable[str] = ()) -> Answer:
    """One row per draw of a search, with its results on the validation images."""
    rows = accuracy.trainings(records)
    rows = rows[~rows["final"].astype(bool)].reset_index(drop=True)
    readable = pd.DataFrame({
        "Method": rows["title"], "Network": rows["network"], "Data": rows["dataset"], "Loss": rows["loss"],
        "Budget": rows["budget"], "Learning rate": [f"{value:.3g}" for value in rows["learning_rate"]],
        "Weight decay": [f"{value:.3g}" for value in rows["weight_decay"]],
        "Accuracy": [_percent(value) for value in rows["accuracy"]], "CRA 36": [_percent(value) for value in rows["cra_36"]],
        "Epochs": [_digits(value) for value in rows["epochs"]],
        "Status": [": ".join(filter(None, (row["status"], row["reason"]))) for row in rows_of(rows)],
    })  # fmt: skip
    return Answer(rows, readable, ("", "Shares of the validation images, in %. " + RADII_REMARK), tuple(problems))


def published(dataset: str | None = None) -> Answer:
    """The paper's results, for one data set or all."""
    table = accuracy.published(dataset)
    readable = pd.DataFrame({
        "Data": table["dataset"], "Method": table["title"], "Network": table["network"], "Hours": table["hours"],
        "Accuracy": [_percent(value) for value in table["accuracy"]], "CRA 36": [_percent(value) for value in table["cra_36"]],
        "Epochs in 2 h": [_digits(value) for value in table["epochs_2h"]], "Learning rate": table["learning_rate"],
        "Weight decay": table["weight_decay"],
    })  # fmt: skip
    remarks = (
        "",
        "arXiv 2311.16833: accuracy and certified robust accuracy at 36/255 on the test images in %, and the epochs that fit "
        "into 2 h on one A100. The budgets of 10 h and 24 h are 5 and 12 times these epochs.",
    )
    return Answer(table, readable, remarks)


def _conclusions(found: Sequence[Arena]) -> list[str]:
    return [text for arena in found if (text := sentence(arena))]


def _explained(found: Sequence[Arena], table: pd.DataFrame) -> list[str]:
    """The remarks that the table needs."""
    if table.empty:
        return ["No training was evaluated on test images."]
    same_time = any(
        arena.groups[0].text("budget_unit") == "seconds" and len({_digits(one.value("epochs")) for one in arena.groups}) > 1
        for arena in found
    )
    machines = "Trainings on a shared or slower machine do fewer epochs in the same seconds."
    return [
        RADII_REMARK,
        SPREAD_REMARK,
        PLACE_REMARK,
        NO_BOUND_REMARK,
        *([f"{SAME_TIME_REMARK} {machines}"] if same_time else []),
    ]


def _readable(found: Sequence[Arena]) -> pd.DataFrame:
    """The table for people: percentages with intervals, in columns that have a value in some row."""
    rows = [_row(one, arena) for arena in found for one in arena.groups]
    table = pd.DataFrame(rows)
    shown = [name for name in table if (table[name] != "").any() and not (name == "Trained" and len(found) == 1)]
    return table[shown]


def _row(one: Group, arena: Arena) -> dict[str, str]:
    constant, peak = one.value("constant"), one.value("peak_bytes")
    return {
        "Method": one.label, "Trained": arena.words, "Seeds": f"{one.value('seeds'):.0f}",
        "Accuracy": _with_interval(one.estimate("accuracy")),
        **{f"CRA {radius}": _with_interval(one.estimate(name)) for radius, name in zip(RADII, CERTIFIED)},
        **{f"Attacked {radius}": _with_interval(one.estimate(name)) for radius, name in zip(RADII, ATTACKED)},
        "Constant": f"{constant:.6g}" if math.isfinite(constant) else "", "Certificate": one.text("verdict"),
        "Place": arena.place(one),
        "Epochs": _digits(one.value("epochs")), "s/epoch": _digits(one.value("seconds_per_epoch")),
        "Peak MB": _digits(peak / 1e6), "Parameters": _digits(one.value("parameters"), whole=True),
        "Paper: accuracy, CRA 36": paper(one), "Paper: epochs in 2 h": _digits(one.value("published_epochs_2h")),
        "Status": _status(one.row), "No certificate": one.text("unproven") if math.isnan(one.value(CERTIFIED[0])) else "",
    }  # fmt: skip


def paper(one: Group) -> str:
    """The paper's accuracy and certified robust accuracy at each of its budgets, in %."""
    known = [(hours, one.value(f"published_accuracy_{hours}h"), one.value(f"published_cra_36_{hours}h"))
             for hours in accuracy.HOURS]  # fmt: skip
    return "; ".join(f"{hours} h {_percent(clean)}, {_percent(certified)}" for hours, clean, certified in known
                     if math.isfinite(clean))  # fmt: skip


def _status(row: Mapping[str, object]) -> str:
    return str(row["reason"] or row["status"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if math.isfinite(share) else ""


def _with_interval(found: Estimate) -> str:
    """ "81.2 ± 0.4", or "81.2" where the interval is unknown."""
    return f"{_percent(found.value)} ± {100 * (found.high - found.value):.1f}" if found.is_known else _percent(found.value)


def _digits(value: float, *, whole: bool = False) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if whole or value >= 1000 else f"{value:.3g}"
