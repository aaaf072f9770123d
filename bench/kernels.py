"""Kernels on this machine: are they right, how long do they take beside what they replace, how near are they to the roofline?

`python -m bench.kernels [--check-only] [--hot-spot aol,soc] [--precision ieee,tf32x3,tf32] [--shapes 64x16x3] [--deadline 120]`
prints one JSON line per hot spot, shape and precision. Shapes are channels × image × kernel, by default those of the preset
`paper`. Exit code 1 where a result is wrong or an operation fails.

Right: the relative error (Euclidean norm) of the output and of every gradient, against the replaced operations in float64, is
within `TOLERANCE` of the precision (four times that for gradients), or no more than `FACTOR` times that of the replaced
operations in the same precision (ieee for tf32x3). Where a gradient has signs of sums, sums near 0 round to another sign, which
changes it by about the square root of their error: there the limit is four times the tolerance's square root.
In triton's interpreter (TRITON_INTERPRET=1, small shapes, --check-only) the same runs on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from lipbench_kernels import roofline
from lipbench_kernels.launching import PRECISIONS, interpreted
from torch import Tensor

from bench import works
from bench.hot_spots import HOT_SPOTS, HotSpot, Shape
from lipbench.cases import PRESETS
from lipbench.meters import machine

TOLERANCE = {"ieee": 1e-5, "tf32x3": 1e-5, "tf32": 5e-3}
FACTOR = 4.0
TURNS = 3
TURN_MS = 50
"""sampling time of one call in one turn"""

Results = tuple[Tensor, ...]
"""output, then the gradient of every input"""


def run(call: Callable[..., Tensor], inputs: Sequence[Tensor], cotangent: Tensor) -> Results:
    """The output of a call on leaves, and the gradients of its inputs from a cotangent."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = call(*leaves)
    return (output.detach(), *torch.autograd.grad(output, leaves, cotangent))


def off(found: Results, expected: Results) -> list[float]:
    """Relative errors in the Euclidean norm; nan where a value is no number."""
    pairs = zip(found, expected, strict=True)
    return [float((one - two).norm() / two.norm()) for one, two in ((one.to(two.dtype), two) for one, two in pairs)]


def limits(spot: HotSpot, precision: str, replaced: Sequence[float]) -> list[float]:
    """How large each error may be, where the replaced operations have these."""
    value = TOLERANCE[precision]
    gradient = 4 * (math.sqrt(value) if spot.sign_gradient else value)
    floors = [value] + [gradient] * (len(replaced) - 1)
    return [max(floor, FACTOR * error) for floor, error in zip(floors, replaced)]


def single(tensor: Tensor, device: str) -> Tensor:
    """A float64 tensor, real or complex, in half of that on the device."""
    return tensor.to(device, torch.complex64 if tensor.is_complex() else torch.float32)


def equality(spot: HotSpot, inputs: Sequence[Tensor], precision: str, device: str) -> dict[str, object]:
    """Errors of the kernel and of the replaced operations, beside float64."""
    double = [tensor.to(device) for tensor in inputs]
    half = [single(tensor, device) for tensor in inputs]
    with torch.no_grad():
        output = spot.replaced(*double)
    cotangent = torch.randn(output.shape, dtype=output.dtype).to(device)
    expected = run(spot.replaced, double, cotangent)
    replaced = off(run(spot.replaced, half, single(cotangent, device)), expected)
    fused = off(run(lambda *given: spot.fused(precision, *given), half, single(cotangent, device)), expected)
    allowed = limits(spot, precision, replaced)
    return {
        "errors": fused,
        "replaced_errors": replaced,
        "allowed": allowed,
        "equal": all(error <= most for error, most in zip(fused, allowed)),
    }


# --------------------------------------------------------------------------------------------------------------------- time


def calls(call: Callable[..., Tensor], inputs: Sequence[Tensor]) -> dict[str, Callable[[], object]]:
    """The forward pass without a graph, and the backward pass alone, to be timed."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = call(*leaves)
    cotangent = torch.randn_like(output)

    def forward() -> Tensor:
        with torch.no_grad():
            return call(*leaves)

    return {"forward": forward, "backward": lambda: torch.autograd.grad(output, leaves, cotangent, retain_graph=True)}


def timing(spot: HotSpot, inputs: Sequence[Tensor], precision: str, device: str) -> dict[str, object]:
    """Median seconds of kernel and replaced operations, turn by turn, by triton's clock."""
    from triton.testing import do_bench

    half = [single(tensor, device) for tensor in inputs]
    both = {"fused": calls(lambda *given: spot.fused(precision, *given), half), "replaced": calls(spot.replaced, half)}
    samples: dict[str, list[float]] = {}
    for _ in range(TURNS):
        for who, phases in both.items():
            for phase, call in phases.items():
                taken_ms = do_bench(call, warmup=10, rep=TURN_MS, return_mode="median")
                samples.setdefault(f"{who}_{phase}_s", []).append(float(taken_ms) * 1e-3)
    return {name: statistics.median(taken) for name, taken in samples.items()} | {"turns": samples}


def against_roofline(spot: HotSpot, shape: Shape, precision: str, found: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Measured and predicted gain, and the share of the roofline that the kernel reaches, of each phase."""
    gpu = roofline.by_device_name(torch.cuda.get_device_name())
    for phase in works.PHASES:
        fused, replaced = found[f"fused_{phase}_s"], found[f"replaced_{phase}_s"]
        assert isinstance(fused, float)
        assert isinstance(replaced, float)
        yield f"{phase}_gain", replaced / fused
        if gpu is not None:
            least = works.fused_device_s(spot, shape, phase, gpu, precision)
            yield f"{phase}_roofline", least / fused
            yield f"{phase}_predicted_gain", works.gain(spot, shape, precision, gpu, [phase])


# --------------------------------------------------------------------------------------------------------------- the lines


def line(spot: HotSpot, shape: Shape, precision: str, device: str, check_only: bool) -> dict[str, object]:
    """All that is found of one hot spot at one shape; an operation that fails is named, and is not equal."""
    found: dict[str, object] = {"hot_spot": spot.name, **vars(shape), "precision": precision, "device": device}
    machine.set_precision(precision)
    torch.manual_seed(0)
    try:
        inputs = spot.inputs(shape)
        found |= equality(spot, inputs, precision, device)
        if not check_only:
            found |= timing(spot, inputs, precision, device)
            found |= dict(against_roofline(spot, shape, precision, found))
    except Exception as error:  # any failure of a kernel is a line, and no reason to stop
        found |= {"equal": False, "raised": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    return found


def jobs(spots: Sequence[HotSpot], shapes: Sequence[Shape], precisions: Sequence[str]) -> list[tuple[HotSpot, Shape, str]]:
    """What there is to do, each thing once: shape by shape, so that a run cut short has seen every hot spot and precision."""
    seen: dict[tuple[object, ...], tuple[HotSpot, Shape, str]] = {}
    for shape in shapes:
        for spot in spots:
            for precision in precisions:
                if spot.takes(shape, precision):
                    seen.setdefault((spot.name, precision, *spot.seen(shape)), (spot, shape, precision))
    return list(seen.values())


def parse_shapes(text: str | None, batch_size: int) -> list[Shape]:
    """Shapes such as 64x16x3; by default the preset's, every third first, so that small and large ones are met early."""
    if text is None:
        known = PRESETS["paper"].layer_shapes
        return [Shape(*sizes, batch_size=batch_size) for start in range(3) for sizes in known[start::3]]
    found = []
    for one in text.split(","):
        channels, image_size, kernel_size = (int(size) for size in one.split("x"))
        found.append(Shape(channels, image_size, kernel_size, batch_size))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hot-spot", default=",".join(HOT_SPOTS))
    parser.add_argument("--precision", default=",".join(PRECISIONS))
    parser.add_argument("--shapes")
    parser.add_argument("--batch-size", type=int, default=PRESETS["paper"].batch_size)
    parser.add_argument("--check-only", action="store_true")
    parser.add_argument("--deadline", type=float, default=math.inf, help="begin nothing after so many seconds")
    given = parser.parse_args()
    device = "cpu" if interpreted() else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "bench.kernels: no CUDA device; set TRITON_INTERPRET=1 to check results, not times, at small --shapes",
            file=sys.stderr,
        )
        sys.exit(2)
    spots = [HOT_SPOTS[name] for name in given.hot_spot.split(",")]
    waiting = jobs(spots, parse_shapes(given.shapes, given.batch_size), given.precision.split(","))
    start, wrong = time.monotonic(), 0
    for done, (spot, shape, precision) in enumerate(waiting):
        if time.monotonic() - start > given.deadline:
            print(f"bench.kernels: {len(waiting) - done} of {len(waiting)} lines left at the deadline", file=sys.stderr)
            break
        found = line(spot, shape, precision, device, given.check_only or interpreted())
        wrong += not found["equal"]
        print(json.dumps(found), flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
