"""Compare memory predicted from shapes with measured memory: both peaks of every phase, side by side.

`python -m bench.memory_agreement [--network XS,S] [--channels 16,32,64] [--method …] [--implementation paper,triton]
[--recompute] [--device cuda]` prints a line per case and phase: networks with 16 images, layers with 32 of 16 × 16, as in the
preset `quick`. Exit code 1 where a peak is off by more than 5 % or, for a single layer, by more than one activation if that is
more.

Peaks are totals: the memory held before any phase, and the memory that a phase adds. On a GPU, neither figure includes the
workspaces that PyTorch keeps for cuBLAS. Only the measured figure includes the memory that cuDNN, cuFFT and cuSOLVER use for
one call, and the rounding of the allocator beyond multiples of 512 bytes: up to 1 MiB with a block of over 1 MiB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import torch

from lipbench import external, registry
from lipbench.cases import Case, LayerSpec, NetworkSpec
from lipbench.meters import machine
from lipbench.meters import memory as memory_meter
from lipbench.prediction import memory as predict
from lipbench.quantities import Memory
from lipbench.workload import Workload

TOLERANCE = 0.05
NETWORK_BATCH, LAYER_BATCH, LAYER_IMAGE = 16, 32, 16


def measured(case: Case) -> dict[str, int]:
    """Peak bytes of each phase, by the allocator, in this process."""
    torch.manual_seed(case.seed)
    return _totals(memory_meter.measure(Workload.build(case, registry.build(case.spec))))


def predicted(case: Case) -> dict[str, int]:
    """Peak bytes of each phase, counted on fake tensors."""
    return _totals(predict.memory(case))


def _totals(found: Memory) -> dict[str, int]:
    return {phase: peak.total_bytes for phase, peak in found.peaks.items()}


def allowed(case: Case, peak: int) -> float:
    """The number of bytes by which a prediction may be off."""
    spec = case.spec
    if isinstance(spec, NetworkSpec):
        return TOLERANCE * peak
    return max(TOLERANCE * peak, case.batch_size * spec.channels * spec.image_size**2 * 4)


def compare(case: Case) -> Iterator[tuple[str, int, int, bool]]:
    """Phase, predicted and measured bytes, and whether they agree."""
    found, expected = predicted(case), measured(case)
    for phase, peak in expected.items():
        yield phase, found[phase], peak, abs(found[phase] - peak) <= allowed(case, peak)


def cases(
    methods: Sequence[str],
    networks: Sequence[str],
    channels: Sequence[int],
    implementations: Sequence[str],
    device: str,
    *,
    recompute: bool = False,
) -> list[Case]:
    """Layers, then networks, each in the implementations that its method has."""
    threads = torch.get_num_threads()
    kinds = [(method, name) for method in methods for name in implementations if _has(method, name)]
    layers = [LayerSpec(method, c, LAYER_IMAGE, 3, name) for c in channels for method, name in kinds]
    nets = [NetworkSpec(method, size, 32, 3, name) for size in networks for method, name in kinds]
    return [Case(spec, LAYER_BATCH, device=device, threads=threads, recompute=recompute) for spec in layers] + [
        Case(spec, NETWORK_BATCH, device=device, threads=threads, recompute=recompute) for spec in nets
    ]


def _has(method: str, implementation: str) -> bool:
    return external.is_external(method) or implementation in registry.find(method).implementations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default=",".join(registry.METHODS))
    parser.add_argument("--network", default="XS")
    parser.add_argument("--channels", default="16,32,64")
    parser.add_argument("--implementation", default="paper")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    machine.set_precision("ieee")
    networks = [size for size in given.network.split(",") if size]
    channels = [int(count) for count in given.channels.split(",") if count]
    failed = False
    print(f"{'case':52} {'phase':15} {'predicted':>11} {'measured':>11} {'off':>8}")
    methods, implementations = given.method.split(","), given.implementation.split(",")
    for case in cases(methods, networks, channels, implementations, given.device, recompute=given.recompute):
        for phase, one, peak, agrees in compare(case):
            failed |= not agrees
            name = f"{case.spec.slug}-b{case.batch_size}"
            print(
                f"{name:52} {phase:15} {one:11d} {peak:11d} {one / peak - 1:+8.2%}{'' if agrees else '  too far'}", flush=True
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
