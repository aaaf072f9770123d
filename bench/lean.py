"""Training step and inference of `lean` beside `paper`: ratios of times and of bytes kept, as a table in Markdown.

`python -m bench.lean [--method aol,bcop,…] [--rounds 7] [--out DIRECTORY]` measures both at four shapes, with batch 32 and
k = 3, on all cores. The rounds of all cases of a shape alternate, each in a fresh process. A ratio below 1 says that `lean` is
quicker or keeps less.
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
PHASE_S = 0.5
"""sampling time of one phase in one round"""


KEYS = ["title", "channels", "image_size"]


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per method and shape of a run's frame: ratios of step, inference and saved bytes, and `lean`'s constant."""
    lean, paper = (frame[frame["implementation"] == name] for name in (LEAN, PAPER))
    pairs = lean.merge(paper, on=["phase", *KEYS], suffixes=("", "_paper"))
    step, inference = (pairs[pairs["phase"] == phase].set_index(KEYS) for phase in ("step", "inference"))
    found = {
        "step": step["median_s"] / step["median_s_paper"],
        "inference": inference["median_s"] / inference["median_s_paper"],
        "saved": (step["saved_memory_bytes"] / step["saved_memory_bytes_paper"]).astype("float64"),
        "certificate": step["certificate"],
        "contended": step["contended"] | step["contended_paper"],
    }
    return pd.DataFrame(found).reset_index()


def lines(table: pd.DataFrame) -> list[str]:
    """The table in Markdown, with the geometric means of each method over its shapes."""
    found = ["| method | c, s | step | inference | saved bytes | constant |", "|---|---|---|---|---|---|"]
    for title, rows in table.groupby("title", sort=False):
        for row in rows.to_dict("records"):
            mark = " †" if row["contended"] else ""
            times = f"{row['step']:.2f}{mark} | {row['inference']:.2f} | {row['saved']:.2f}"
            found.append(f"| {title} | {row['channels']}, {row['image_size']} | {times} | {row['certificate']:.6f} |")
        means = (_mean(rows[name].tolist()) for name in ("step", "inference", "saved"))
        found.append(f"| {title} | geometric mean | {' | '.join(means)} | |")
    return [*found, "", "†: other processes were busy in every round."] if table["contended"].any() else found


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
                *given.method.split(","), implementation=(PAPER, LEAN), channels=channels, image_size=image_size, kernel_size=3,
                batch_size=32, rounds=given.rounds, phase_seconds=given.phase_seconds, device="cpu",
                measure=("time", "memory", "certificate"), out=(given.out or Path(scratch)) / f"c{channels}",
            ).frame()
            for channels, image_size in SHAPES
        ]  # fmt: skip
    table = ratios(pd.concat(frames, ignore_index=True))
    print("\n".join(lines(table.sort_values(["title", "channels"], kind="stable"))))


if __name__ == "__main__":
    main()
