"""Training step and inference of `lean` beside `paper`, and of both with recomputation beside without: a table in Markdown.

`python -m bench.lean [--method aol,bcop,…] [--rounds 7] [--out DIRECTORY]` measures both at four shapes, with batch 32 and
k = 3, on all cores. The rounds of all cases of a shape alternate, each in a fresh process. A ratio below 1 says that `lean` is
quicker or keeps less. "Recomputed" is the training step with recomputation relative to the same one without.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from statistics import geometric_mean

import pandas as pd

from lipbench import api
from lipbench.cases import LEAN, PAPER

SHAPES = ((16, 32), (64, 16), (128, 8), (256, 4))
"""(channels, image_size)"""
METHODS = "aol,bcop,cayley,cpl,lot,sll,soc"
PHASE_S = 0.3
"""sampling time of one phase in one round"""


KEYS = ["title", "channels", "image_size"]


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per method and shape of a run's frame: `lean` relative to `paper`, recomputed steps relative to the same ones
    that are not, and `lean`'s constant."""

    def phase(name: str, implementation: str, recomputed: bool) -> pd.DataFrame:
        chosen = (frame["phase"] == name) & (frame["implementation"] == implementation) & (frame["recomputed"] == recomputed)
        return frame[chosen].set_index(KEYS)

    lean, paper = phase("step", LEAN, False), phase("step", PAPER, False)
    again = {name: phase("step", name, True) for name in (LEAN, PAPER)}
    found = {
        "step": lean["median_s"] / paper["median_s"],
        "inference": phase("inference", LEAN, False)["median_s"] / phase("inference", PAPER, False)["median_s"],
        "saved": (lean["saved_memory_bytes"] / paper["saved_memory_bytes"]).astype("float64"),
        "paper_recomputed": again[PAPER]["median_s"] / paper["median_s"],
        "lean_recomputed": again[LEAN]["median_s"] / lean["median_s"],
        "certificate": lean["certificate"],
        "contended": frame.groupby(KEYS)["contended"].any(),
    }
    return pd.DataFrame(found).reset_index()


RATIOS = {
    "step": "step", "inference": "inference", "saved": "saved bytes", "paper_recomputed": "paper recomputed",
    "lean_recomputed": "lean recomputed",
}  # fmt: skip
"""the heading of each column of ratios"""


def lines(table: pd.DataFrame) -> list[str]:
    """The table in Markdown, with the geometric means of each method over its shapes."""
    found = [f"| method | c, s | {' | '.join(RATIOS.values())} | constant |", "|---" * (len(RATIOS) + 3) + "|"]
    for title, rows in table.groupby("title", sort=False):
        for row in rows.to_dict("records"):
            mark = " †" if row["contended"] else ""
            values = " | ".join(f"{row[name]:.2f}" for name in RATIOS)
            found.append(f"| {title} | {row['channels']}, {row['image_size']}{mark} | {values} | {row['certificate']:.6f} |")
        means = (_mean(rows[name].tolist()) for name in RATIOS)
        found.append(f"| {title} | geometric mean | {' | '.join(means)} | |")
    return [*found, "", "†: other processes were busy in every round of some phase."] if table["contended"].any() else found


def _mean(values: list[float]) -> str:
    return "-" if any(map(math.isnan, values)) else f"{geometric_mean(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default=METHODS, help="methods that have an implementation lean, with commas")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each case")
    parser.add_argument("--phase-seconds", type=float, default=PHASE_S, help="sampling time of one phase in one round")
    parser.add_argument("--out", type=Path, help="keep the runs here, one directory per shape")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        frames = [
            api.profile(
                *given.method.split(","), implementation=(PAPER, LEAN), recompute=(False, True), channels=channels,
                image_size=image_size, kernel_size=3, batch_size=32, device="cpu", rounds=given.rounds,
                phase_seconds=given.phase_seconds,
                measure=("time", "memory", "certificate"), out=(given.out or Path(scratch)) / f"c{channels}",
            ).frame()
            for channels, image_size in SHAPES
        ]  # fmt: skip
    table = ratios(pd.concat(frames, ignore_index=True))
    print("\n".join(lines(table.sort_values(["title", "channels"], kind="stable"))))


if __name__ == "__main__":
    main()
