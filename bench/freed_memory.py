"""Forward and backward passes where freed memory is returned to the system, and where it is kept: times and page faults.

`python -m bench.freed_memory [--method standard,…] [--channels 32] [--image-size 16] [--batch-size 32]` measures each in fresh
processes, which alternate, and prints the medians. `lipbench` keeps freed memory wherever it measures on a CPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

from lipbench import registry
from lipbench.cases import PAPER_METHODS, Case, LayerSpec
from lipbench.meters.heap import keep_freed_memory
from lipbench.workload import Workload

ITERATIONS, PROCESSES = 60, 3
Found = dict[str, tuple[float, float]]
"""phase → median seconds, and page faults"""


def measured(method: str, channels: int, image_size: int, batch_size: int, kept: bool) -> Found:
    """The phases of one layer in this process."""
    if kept:
        keep_freed_memory()
    case = Case(LayerSpec(method, channels, image_size, 3), batch_size)
    workload = Workload.build(case, registry.build(case.spec))
    seen: dict[str, list[tuple[float, int]]] = {"forward": [], "backward": []}
    for _ in range(ITERATIONS):
        workload.prepare_training()
        for name, run in (("forward", workload.forward), ("backward", workload.backward)):
            faults, start = _faults(), time.perf_counter()
            run()
            seen[name].append((time.perf_counter() - start, _faults() - faults))
    settled = {name: samples[ITERATIONS // 3 :] for name, samples in seen.items()}
    return {name: (statistics.median(s for s, _ in one), statistics.median(n for _, n in one)) for name, one in settled.items()}


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default=",".join(PAPER_METHODS))
    for name, usual in (("--channels", 32), ("--image-size", 16), ("--batch-size", 32)):
        parser.add_argument(name, type=int, default=usual)
    parser.add_argument("--in-process", choices=("returned", "kept"), help="measure one method in this process, and print JSON")
    given = parser.parse_args()
    sizes = given.channels, given.image_size, given.batch_size
    if given.in_process:
        print(json.dumps(measured(given.method, *sizes, given.in_process == "kept")))
        return
    print(f"{'method':10} {'phase':9} {'returned':>10} {'faults':>7} {'kept':>10} {'faults':>7} {'ratio':>6}")
    for method in given.method.split(","):
        found: dict[str, list[Found]] = {"returned": [], "kept": []}
        for _ in range(PROCESSES):
            for what, runs in found.items():
                command = [sys.executable, "-m", "bench.freed_memory", *sys.argv[1:], "--method", method, "--in-process", what]
                runs.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        for phase in ("forward", "backward"):
            (returned, faults), (kept, others) = (
                tuple(map(statistics.median, zip(*(run[phase] for run in runs)))) for runs in found.values()
            )
            cells = (f"{seconds * 1e3:7.2f} ms {count:7.0f}" for seconds, count in ((returned, faults), (kept, others)))
            print(f"{method:10} {phase:9} {' '.join(cells)} {kept / returned:6.2f}")


if __name__ == "__main__":
    main()
