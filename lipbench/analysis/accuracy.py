"""Trainings as frames: one row per training, and the table of means over seeds, with the paper's results beside them.

Trainings that differ in the seed alone form a group. A training belongs to the table if it was evaluated on test images, or if
it failed; the draws of a search, which are evaluated on validation images, stay apart. Shares are from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pandas as pd
from lipbench_reports.intervals import mean_over_seeds
from lipbench_reports.tables import Trained
from lipbench_reports.trainings import places

from lipbench import external, registry
from lipbench.cases import network_of
from lipbench.train.task import RADII, Evaluation, TrainingCase, TrainingRecord, radius_key

RADIUS_NAMES: Mapping[str, float] = {f"{round(255 * radius)}": radius for radius in RADII}
"""the radii in units of 1/255, as in names of columns, and their values for pixels in [0, 1]"""
PUBLISHED_DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "tiny-imagenet": "tiny_imagenet"}
"""data set → its name in the published results"""
PUBLISHED_BUDGETS = {"cifar10": "cifar", "cifar100": "cifar", "tiny-imagenet": "tiny_imagenet"}
"""data set → its name in the published epoch budget"""
HOURS = (2, 10, 24)
"""the published training times"""

CASE_COLUMNS = (
    "method", "title", "implementation", "network", "image_size", "kernel_size", "dataset", "loss", "budget", "budget_unit",
    "budget_amount", "learning_rate", "weight_decay", "batch_size", "all_images", "precision", "device", "threads", "compiled",
)  # fmt: skip
"""what the trainings of a group have in common"""
COSTS = ("parameters", "epochs", "seconds", "seconds_per_epoch", "loading_share", "peak_bytes", "images_per_second")
CERTIFIED = tuple(f"cra_{name}" for name in RADIUS_NAMES)
ATTACKED = tuple(f"attacked_{name}" for name in RADIUS_NAMES)
MEASURED = ("accuracy", *CERTIFIED, *ATTACKED)
"""the shares of a network that have an interval over seeds"""


def trained(records: Sequence[TrainingRecord]) -> Trained:
    """All frames of trainings that a report takes."""
    return Trained(frame(records), trainings(records), curves(records), quantiles(records))


def frame(records: Sequence[TrainingRecord]) -> pd.DataFrame:
    """One row per group of final trainings: means over seeds, intervals, the certificate, and the paper's results.

    A mean without suffix has the ends of its 95 % interval in the columns with `_low` and `_high`, from three seeds on, and its
    sample standard deviation in that with `_sd`. `place_first` and `place_last` rank the trainings of an arena by their
    certified robust accuracy at 36/255.
    """
    rows = trainings(records)
    finals = rows[rows["final"].astype(bool)]
    paper = published()
    found = [_over_seeds(group) | _published(group.iloc[0], paper) for _, group in finals.groupby("group", sort=False)]
    measured = [f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high", "_sd")]
    columns = [
        *CASE_COLUMNS, "group", "trainings", "seeds", "status", "reason", *COSTS, *measured, "images", "attack",
        "attacked_images", "below_certified", "constant", "verdict", "unproven", *_published_columns(),
    ]  # fmt: skip
    table = pd.DataFrame(found, columns=columns)
    return table.assign(**places(table))


def trainings(records: Sequence[TrainingRecord]) -> pd.DataFrame:
    """One row per training; `final` is False for the draws of a search."""
    searched = {_searched(one.case) for one in records if one.evaluation and one.evaluation.part != "test"}
    rows = [_row(one, final=_is_final(one, searched)) for one in records]
    names = [*CASE_COLUMNS, "training", "group", "final", "seed", "split_seed", "status", "reason", "machine", "version",
             "started", "steps", "interruptions", *COSTS, "part", "images", *MEASURED, "attack", "attacked_images",
             "below_certified", "constant", "verdict", "unproven"]  # fmt: skip
    titles = external.titles(dict.fromkeys(one.case.network.method for one in records))
    return pd.DataFrame([row | {"title": titles.get(row["method"], row["title"])} for row in rows], columns=names)


def curves(records: Sequence[TrainingRecord]) -> pd.DataFrame:
    """One row per training and point of its learning curve."""
    rows = [
        {"training": one.case.id, "group": group_of(one.case), "seed": one.case.seed, **vars(point)}
        for one in records for point in one.curve
    ]  # fmt: skip
    names = ["training", "group", "seed", "step", "epoch", "seconds", "learning_rate", "loss", "accuracy",
             "validation_accuracy", "validation_certified"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def quantiles(records: Sequence[TrainingRecord]) -> pd.DataFrame:
    """One row per training on whose test images radii were certified and quantile: the share of images below the radius."""
    rows = [
        {"training": one.case.id, "group": group_of(one.case), "seed": one.case.seed, "share": float(share), "radius": radius}
        for one in records if one.evaluation and one.evaluation.part == "test" and one.evaluation.certified
        for share, radius in one.evaluation.margins.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["training", "group", "seed", "share", "radius"])


def published(dataset: str | None = None) -> pd.DataFrame:
    """The paper's results: accuracy and certified robust accuracy at 36/255 as shares, and the epochs of the 2 h budget.

    `dataset` is one of `PUBLISHED_DATASETS`; None stands for all.
    """
    results, budgets = (pd.read_csv(str(files("lipbench.published") / name)) for name in
                        ("accuracy.csv", "epoch_budget_2h.csv"))  # fmt: skip
    epochs = {(row["dataset"], row["layer"], row["size"]): row["epochs_in_2h_on_A100_80GB"]
              for row in budgets.to_dict("records")}  # fmt: skip
    own = {theirs: name for name, theirs in PUBLISHED_DATASETS.items()}
    names = results["dataset"].map(own)
    table = pd.DataFrame({
        "dataset": names, "title": results["layer"], "network": results["size"], "hours": results["training_hours"],
        "accuracy": results["accuracy_percent"] / 100,
        "cra_36": results["certified_robust_accuracy_percent_eps_36_255"] / 100,
        "epochs_2h": [epochs.get((PUBLISHED_BUDGETS[name], layer, size), math.nan)
                      for name, layer, size in zip(names, results["layer"], results["size"])],
        "learning_rate": results["learning_rate"], "weight_decay": results["weight_decay"],
    })  # fmt: skip
    return table if dataset is None else table[table["dataset"] == dataset].reset_index(drop=True)


def group_of(case: TrainingCase) -> str:
    """A text that is the same for trainings that differ in their seeds alone."""
    return replace(case, seed=0, split_seed=0).id


def _searched(case: TrainingCase) -> tuple[object, ...]:
    """What the draws of one search have in common."""
    return (case.network, case.dataset, case.loss, case.batch_size, case.precision, case.device)


def _is_final(record: TrainingRecord, searched: set[tuple[object, ...]]) -> bool:
    """Whether a training belongs to the table. One that was not evaluated is a draw where its search has other draws."""
    if record.evaluation:
        return record.evaluation.part == "test"
    return record.case.all_images or _searched(record.case) not in searched


def _row(record: TrainingRecord, final: bool) -> dict[str, Any]:
    found, epochs = record.evaluation, record.epochs
    return {
        **_case_values(record.case), "training": record.case.id, "group": group_of(record.case), "final": final,
        "seed": record.case.seed, "split_seed": record.case.split_seed, "status": record.status, "reason": record.reason,
        "machine": record.machine, "version": record.version, "started": record.started, "steps": record.steps,
        "interruptions": record.interruptions, "parameters": record.parameters or math.nan, "epochs": epochs,
        "seconds": record.seconds, "seconds_per_epoch": record.seconds / epochs if epochs > 0 else math.nan,
        "loading_share": record.loading_seconds / record.seconds if record.seconds > 0 else math.nan,
        "peak_bytes": math.nan if record.peak_bytes is None else record.peak_bytes,
        **(_evaluated(found) if found else {"unproven": "not evaluated"}),
    }  # fmt: skip


def _case_values(case: TrainingCase) -> dict[str, Any]:
    network = case.network
    known = registry.METHODS.get(network.method)
    return {
        "method": network.method, "title": known.title if known else external.title(network.method),
        "implementation": network.implementation, "network": network_of(network), "image_size": network.image_size,
        "kernel_size": network.kernel_size, "dataset": case.dataset, "loss": case.loss, "budget": str(case.budget),
        "budget_unit": case.budget.unit, "budget_amount": case.budget.amount, "learning_rate": case.learning_rate,
        "weight_decay": case.weight_decay, "batch_size": case.batch_size, "all_images": case.all_images,
        "precision": case.precision, "device": case.device, "threads": case.threads, "compiled": case.compile,
    }  # fmt: skip


def _evaluated(found: Evaluation) -> dict[str, Any]:
    """The columns of an evaluation. Of several attacks at one radius, the one that left the least accuracy counts."""
    attacked = {
        name: min((one.accuracy for one in found.attacked if math.isclose(one.radius, radius, rel_tol=1e-5)), default=math.nan)
        for name, radius in RADIUS_NAMES.items()
    }
    return {
        "part": found.part, "images": found.images, "accuracy": found.accuracy,
        **{f"cra_{name}": found.certified.get(radius_key(radius), math.nan) for name, radius in RADIUS_NAMES.items()},
        **{f"attacked_{name}": share for name, share in attacked.items()},
        "attack": "; ".join(dict.fromkeys(one.attack for one in found.attacked)),
        "attacked_images": min((one.images for one in found.attacked), default=math.nan),
        "below_certified": any(one.accuracy < one.certified for one in found.attacked) and bool(found.certified),
        "constant": math.nan if found.constant is None else found.constant, "verdict": found.verdict,
        "unproven": found.reason, "images_per_second": found.images_per_second,
    }  # fmt: skip


def _over_seeds(group: pd.DataFrame) -> dict[str, Any]:
    """One group as a row: its means over the trainings that were evaluated, and what is to be said of the others."""
    first = group.iloc[0]
    done = group[group["part"] == "test"]
    bad = group[(group["status"] != "ok") | (group["part"] != "test") | (group["reason"] != "")]
    row: dict[str, Any] = {name: first[name] for name in (*CASE_COLUMNS, "group")}
    row |= {"trainings": len(group), "seeds": len(done), "status": _status(group), "reason": _reasons(bad)}
    row |= {name: float(pd.to_numeric((done if len(done) else group)[name]).mean()) for name in COSTS}
    for name in MEASURED:
        values = pd.to_numeric(done[name]).astype(float)
        found = mean_over_seeds(list(values)) if name == "accuracy" or values.notna().all() else mean_over_seeds(())
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high,
                f"{name}_sd": float(values.std(ddof=1)) if math.isfinite(found.value) else math.nan}  # fmt: skip
    verdicts = dict.fromkeys(done["verdict"])
    return row | {
        "images": done["images"].min(), "attack": "; ".join(dict.fromkeys(filter(None, done["attack"]))),
        "attacked_images": done["attacked_images"].min(), "below_certified": bool((done["below_certified"] == True).any()),  # noqa: E712
        "constant": done["constant"].max(skipna=False) if len(done) else math.nan,
        "verdict": ", ".join(verdicts), "unproven": "; ".join(dict.fromkeys(filter(None, done["unproven"]))),
    }  # fmt: skip


def _status(group: pd.DataFrame) -> str:
    """'ok' where every training ended well, else the status of the first that did not."""
    return next((str(status) for status in group["status"] if status != "ok"), "ok")


def _reasons(bad: pd.DataFrame) -> str:
    words = zip(bad["seed"], bad["status"], bad["reason"], bad["unproven"])
    told = [(seed, status if status != "ok" else "", reason or (unproven if status == "ok" else ""))
            for seed, status, reason, unproven in words]  # fmt: skip
    return "; ".join(": ".join(filter(None, (f"seed {seed}", status, reason))) for seed, status, reason in told)


def _published_columns() -> list[str]:
    return [*(f"published_{name}_{hours}h" for hours in HOURS for name in ("accuracy", "cra_36")), "published_epochs_2h"]


def _published(row: pd.Series, paper: pd.DataFrame) -> dict[str, float]:
    """The paper's results where data set, method and size match; a layer of another package has none, whatever its title."""
    if row["method"] not in registry.METHODS:
        return {}
    same = paper[(paper["dataset"] == row["dataset"]) & (paper["title"] == row["title"]) & (paper["network"] == row["network"])]
    values = {f"published_{name}_{one['hours']}h": one[name] for one in same.to_dict("records") for name in
              ("accuracy", "cra_36")}  # fmt: skip
    return values | ({"published_epochs_2h": same["epochs_2h"].iloc[0]} if len(same) else {})
