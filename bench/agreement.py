"""Compare our clock with another one: on a GPU with `triton.testing.do_bench`, on a CPU with `torch.utils.benchmark.Timer`.

`python bench/agreement.py [--device cuda]` times the same calls with both clocks in turn, and prints one JSON line per call:
both medians, their ratio, and whether it is within 5 % of 1. If it is not, the machine is too noisy or a clock is wrong, and
the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer

from lipbench import registry
from lipbench.cases import Case, LayerSpec
from lipbench.meters import machine
from lipbench.meters import time as time_meter
from lipbench.workload import Workload

TOLERANCE = 0.05
TURNS = 9
TURN_S = 0.2
"""sampling time of one clock in one turn"""
SHAPES = {"cpu": (32, 64, 16), "cuda": (256, 128, 32)}
"""(batch_size, channels, image_size): calls of a few milliseconds"""
METHODS = ("standard", "aol", "soc")


def ours_s(call: Callable[[], object], device: str) -> float:
    """Median seconds per call by `lipbench.meters.time`."""
    group = {"call": call}
    timing = time_meter.measure(group, lambda: None, device=device, limit_s=2 * TURN_S, threads=torch.get_num_threads())
    return statistics.median(timing["call"].samples_s)


def theirs_s(call: Callable[[], object], device: str) -> float:
    """Median seconds per call by the other clock."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(call, warmup=50, rep=1000 * TURN_S, return_mode="median")) * 1e-3
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=TURN_S).median


def compare(method: str, device: str, turns_taken: int = TURNS, channels: int | None = None) -> dict[str, object]:
    """Time the inference of a layer by both clocks in turn; the results are medians over the turns."""
    batch_size, usual_channels, image_size = SHAPES[device]
    channels = channels or usual_channels
    case = Case(LayerSpec(method, channels, image_size), batch_size, device=device, threads=torch.get_num_threads())
    workload = Workload.build(case, registry.build(case.spec))
    workload.prepare_inference()
    turns = [(ours_s(workload.inference, device), theirs_s(workload.inference, device)) for _ in range(turns_taken)]
    ours, theirs = (statistics.median(times) for times in zip(*turns))
    ratio = statistics.median(one / other for one, other in turns)
    return {
        "case": case.id,
        "ours_s": ours,
        "theirs_s": theirs,
        "ratio": ratio,
        "agrees": abs(ratio - 1) <= TOLERANCE,
        "turns": turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=sorted(SHAPES), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--channels", type=int, help="fewer for a trial; the default gives calls of some milliseconds")
    given = parser.parse_args()
    device = given.device
    machine.set_precision("ieee")
    agreed = True
    for method in METHODS:
        result = compare(method, device, given.turns, given.channels)
        agreed &= bool(result["agrees"])
        print(json.dumps(result), flush=True)
    sys.exit(0 if agreed else 1)


if __name__ == "__main__":
    main()
