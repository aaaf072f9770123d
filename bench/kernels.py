"""Check every configuration of the kernels on this machine, and time kernels and the operations they replace.

`python -m bench.kernels --check [--hot-spot aol,soc] [--precision ieee,tf32x3,tf32] [--processes 16] [--deadline 60]`
compares every kernel in every configuration and precision with float64 (`bench/equality.py`), with a JSON line for each.
Before that, `--processes` compile the programs into triton's cache. The last line says how many of the kernels' configurations
× precisions were checked and how many lines are wrong; the lines before it begin with "wrong" and repeat those.

`python -m bench.kernels --time [--hot-spot …] [--precision ieee,tf32x3] [--shapes 64x16x3] [--deadline 120]` times kernels and
the operations they replace (`bench/kernel_times.py`): a JSON line for each hot spot, shape and precision, the most important
first, which also says whether the result is right at that shape. Shapes are channels × image × kernel.

Nothing, compiling included, begins after the deadline, in seconds from the start. Exit code 1 where a result is wrong or an
operation fails, 2 without a CUDA device. In triton's interpreter (TRITON_INTERPRET=1) both run on a CPU: `--check` at tiny
sizes of its own, `--time` at small --shapes and --batch-size, without times.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

import torch
from lipbench_kernels.launching import PRECISIONS, interpreted

from bench import equality, kernel_times
from bench.hot_spots import HOT_SPOTS, Shape

COMPILING = 0.6
"""largest share of the time until the deadline that compiling beforehand may take"""


def parse_shapes(text: str, batch_size: int) -> list[Shape]:
    """The shapes in a text such as 64x16x3,128x8x3."""
    found = []
    for one in text.split(","):
        channels, image_size, kernel_size = (int(size) for size in one.split("x"))
        found.append(Shape(channels, image_size, kernel_size, batch_size))
    return found


def check(given: argparse.Namespace, device: str, deadline: float) -> bool:
    """Check kernels until the deadline; return whether all results are right."""
    names, precisions = given.hot_spot.split(","), given.precision.split(",")
    if device == "cuda" and given.processes:
        found = equality.compile_before(names, precisions, given.processes, given.deadline * COMPILING)
        print(json.dumps(found), flush=True)
    known = equality.TINY if interpreted() else equality.SHAPES
    return equality.check(equality.jobs({name: known[name] for name in names}, precisions), device, deadline)


def times(given: argparse.Namespace, device: str, deadline: float) -> bool:
    """Time kernels until the deadline; return whether all results are right."""
    names, precisions = given.hot_spot.split(","), given.precision.split(",")
    shapes = parse_shapes(given.shapes, given.batch_size) if given.shapes else None
    waiting = kernel_times.jobs(names, precisions, shapes, given.batch_size)
    wrong = 0
    for done, (spot, shape, precision) in enumerate(waiting):
        if time.monotonic() > deadline:
            print(f"bench.kernels: {len(waiting) - done} of {len(waiting)} lines left at the deadline", file=sys.stderr)
            break
        found = kernel_times.line(spot, shape, precision, device)
        wrong += not found["equal"]
        print(json.dumps(found), flush=True)
    return not wrong


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true")
    what.add_argument("--time", action="store_true")
    parser.add_argument("--hot-spot", default=",".join(HOT_SPOTS))
    parser.add_argument("--precision", help="default: all to check, ieee,tf32x3 to time")
    parser.add_argument("--shapes")
    parser.add_argument("--batch-size", type=int, default=kernel_times.BATCH_SIZE)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="that compile; 0: launches compile")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds after which nothing begins")
    given = parser.parse_args(arguments)
    given.precision = given.precision or ",".join(PRECISIONS if given.check else PRECISIONS[:2])
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    given, start = parsed(arguments), time.monotonic()
    device = "cpu" if interpreted() else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        do = "set TRITON_INTERPRET=1 to check results, not times, at small --shapes"
        print(f"bench.kernels: no CUDA device: got none that PyTorch sees; {do}", file=sys.stderr)
        sys.exit(2)
    right = (check if given.check else times)(given, device, start + given.deadline)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
