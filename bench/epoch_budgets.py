"""Predicted times of a training step beside the published epoch budgets, both relative to CPL.

`python -m bench.epoch_budgets [--gpu A100] [--precision ieee,tf32] [--dataset cifar,tiny_imagenet] [--network XS,S,M,L]`
predicts the step of every network with a published budget, at its batch size, from counts on fake tensors and the data sheet of
the GPU.
It prints both ratios and Spearman's rank correlation, over all networks and within each size. Nothing is fitted to the budgets.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib.resources import files

import pandas as pd

from lipbench import registry
from lipbench.cases import Case, NetworkSpec
from lipbench.prediction import operations, rates, time
from lipbench.prediction.operations import Operation

IMAGE_SIZES = {"cifar": 32, "tiny_imagenet": 64}
REFERENCE = "CPL"


def steps(budgets: pd.DataFrame) -> list[tuple[Operation, ...]]:
    """The operations of a training step of each row of the budgets."""
    names = {method.title: method.name for method in registry.METHODS.values()}
    found = []
    for row in budgets.to_dict("records"):
        spec = NetworkSpec(names[row["layer"]], row["size"], IMAGE_SIZES[row["dataset"]])
        phases, _ = operations.of_case(Case(spec, row["batch_size"], device="cuda"))
        found.append(phases["step"])
    return found


def predicted(
    budgets: pd.DataFrame, found: Sequence[tuple[Operation, ...]], device: rates.Rates, precision: str
) -> pd.DataFrame:
    """The rows of the budgets with `predicted_s`, seconds per epoch, and `share`, that of the published time."""
    seconds = pd.Series([time.floor("step", own, device, precision).seconds for own in found], index=budgets.index)
    seconds *= budgets["train_images"] / budgets["batch_size"]
    return budgets.assign(predicted_s=seconds, share=seconds / budgets["train_seconds_per_epoch"])


def relative(found: pd.DataFrame) -> pd.DataFrame:
    """The same with `published_ratio` and `predicted_ratio`: times relative to CPL of the same data set and size."""
    keys = ["dataset", "size"]
    own = found[found["layer"] == REFERENCE].set_index(keys)[["train_seconds_per_epoch", "predicted_s"]]
    reference = found[keys].join(own, on=keys)
    return found.assign(
        published_ratio=found["train_seconds_per_epoch"] / reference["train_seconds_per_epoch"],
        predicted_ratio=found["predicted_s"] / reference["predicted_s"],
    )


def correlations(found: pd.DataFrame) -> Iterator[tuple[str, int, float, float]]:
    """Group, networks, and rank correlation of published with predicted times, and of their ratios."""
    for dataset, own in found.groupby("dataset", sort=False):
        for name, rows in [
            (f"{dataset}, all", own),
            *((f"{dataset}, {size}", rows) for size, rows in own.groupby("size", sort=False)),
        ]:
            times = rows["train_seconds_per_epoch"].corr(rows["predicted_s"], method="spearman")
            ratios = rows["published_ratio"].corr(rows["predicted_ratio"], method="spearman")
            yield name, len(rows), times, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="A100")
    parser.add_argument("--precision", default="ieee,tf32")
    parser.add_argument("--dataset", default=",".join(IMAGE_SIZES))
    parser.add_argument("--network", default="XS,S,M,L")
    given = parser.parse_args()
    budgets = pd.read_csv(str(files("lipbench.published") / "epoch_budget_2h.csv")).dropna(subset="train_seconds_per_epoch")
    budgets = budgets[budgets["dataset"].isin(given.dataset.split(",")) & budgets["size"].isin(given.network.split(","))]
    device, found = rates.named(given.gpu), steps(budgets)
    for precision in given.precision.split(","):
        print(f"\n{given.gpu}, {precision}: floor of the training steps of an epoch, and ratios to {REFERENCE}")
        print(f"{'network':24} {'published':>10} {'floor':>9} {'floor/published':>16} {'ratio, published':>17} {'floor':>7}")
        table = relative(predicted(budgets, found, device, precision))
        for row in table.itertuples():
            print(
                f"{f'{row.dataset} {row.layer} {row.size}':24} {row.train_seconds_per_epoch:9.1f}s {row.predicted_s:8.2f}s "
                f"{row.share:16.2f} {row.published_ratio:17.2f} {row.predicted_ratio:7.2f}",
                flush=True,
            )
        print(f"\n{'rank correlation':24} {'networks':>9} {'times':>7} {'ratios':>7}")
        for name, count, times, ratios in correlations(table):
            print(f"{name:24} {count:9} {times:7.2f} {ratios:7.2f}")


if __name__ == "__main__":
    main()
