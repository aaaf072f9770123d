"""Check every kernel in every configuration and precision, forward and backward, at sizes that fill no block.

`python -m bench.kernels --check` runs this: it prints a JSON line for every hot spot × shape × precision × configuration
as it is checked, and at the end the number of kernel configurations that were checked. One process makes all checks; programs
are compiled before, on all cores, into triton's cache.

A kernel is right if the relative error (Euclidean norm) of the output and of every gradient, against the replaced operations in
float64, is within `TOLERANCE` of the precision (four times that for gradients), or no more than `FACTOR` times that of the
replaced operations in the same precision (ieee for tf32x3). Where a gradient contains signs of sums, sums near 0 may round to
the other sign, which changes it by about the square root of their error: there the limit is four times the square root of the
tolerance.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from lipbench_kernels import catalogue, launching, resources
from lipbench_kernels.launching import Variant
from torch import Tensor

from bench.hot_spots import HOT_SPOTS, HotSpot, Shape
from lipbench.meters import machine

TOLERANCE = {"ieee": 1e-5, "tf32x3": 1e-5, "tf32": 5e-3}
FACTOR = 4.0

# Odd channels and images, more of both than one block of any configuration, and a kernel for each size. With batches of 4,
# slices of a stack of images are aligned to 16 bytes, as those of usual batches are, and use the programs compiled before.
SHAPES: dict[str, tuple[Shape, ...]] = {
    "aol": (Shape(131, 1, 3, 1), Shape(131, 1, 1, 1), Shape(131, 1, 5, 1)),
    "sll": (Shape(131, 1, 3, 1),),
    "soc-step": (Shape(131, 7, 3, 4), Shape(131, 7, 1, 4), Shape(131, 7, 5, 4)),
    "soc": (
        *(Shape(67, 7, k, 4) for k in (3, 1, 5)),  # resident, a program for each image
        Shape(67, 3, 3, 20),  # resident, several images to a program
        *(Shape(131, 7, k, 4) for k in (3, 1, 5)),  # steps
    ),
    "bjorck": (Shape(61, 1, 3, 1), Shape(29, 1, 3, 1), Shape(13, 1, 3, 1)),
    "newton": (Shape(29, 5, 3, 1), Shape(13, 5, 3, 1)),
}
"""Hot spot → the layers at which its kernels are checked. One for k = 3 comes first, in case time is short."""
TINY: dict[str, tuple[Shape, ...]] = {
    "aol": (Shape(5, 1, 3, 1),),
    "sll": (Shape(5, 1, 1, 1),),
    "soc-step": (Shape(3, 3, 3, 2),),
    "soc": (Shape(3, 3, 1, 2), Shape(129, 1, 1, 2)),
    "bjorck": (Shape(5, 1, 1, 1), Shape(17, 1, 1, 1), Shape(33, 1, 1, 1)),
    "newton": (Shape(3, 1, 1, 1), Shape(17, 1, 1, 1)),
}
"""The same for triton's interpreter, where a thousand programs take a minute: as small as possible with every configuration."""

Results = tuple[Tensor, ...]
"""output, then the gradient of every input"""


@dataclass(frozen=True)
class Expected:
    """Inputs and expected results of a kernel at one shape and precision."""

    inputs: tuple[Tensor, ...]
    """float32 on the device"""
    cotangent: Tensor
    results: Results
    """of the replaced operations in float64"""
    replaced_errors: list[float]
    """of the replaced operations in float32"""
    allowed: list[float]


def run(call: Callable[..., Tensor], inputs: Sequence[Tensor], cotangent: Tensor) -> Results:
    """The output of a call, and the gradients of its inputs for a cotangent."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = call(*leaves)
    return (output.detach(), *torch.autograd.grad(output, leaves, cotangent))


def off(found: Results, expected: Results) -> list[float]:
    """Relative errors in the Euclidean norm; nan where a value is not finite."""
    pairs = zip(found, expected, strict=True)
    return [float((one - two).norm() / two.norm()) for one, two in ((one.to(two.dtype), two) for one, two in pairs)]


def limits(spot: HotSpot, precision: str, replaced: Sequence[float]) -> list[float]:
    """The limit of each error, given the errors of the replaced operations."""
    value = TOLERANCE[precision]
    gradient = 4 * (math.sqrt(value) if spot.sign_gradient else value)
    floors = [value] + [gradient] * (len(replaced) - 1)
    return [max(floor, FACTOR * error) for floor, error in zip(floors, replaced)]


def single(tensor: Tensor, device: str) -> Tensor:
    """A float64 tensor, real or complex, in single precision on the device."""
    return tensor.to(device, torch.complex64 if tensor.is_complex() else torch.float32)


def expected(spot: HotSpot, shape: Shape, precision: str, device: str) -> Expected:
    """The replaced operations in float64, and in float32 with PyTorch's products in the precision; always the same inputs."""
    machine.set_precision(precision)
    torch.manual_seed(0)
    double = [tensor.to(device) for tensor in spot.inputs(shape)]
    half = tuple(single(tensor, device) for tensor in double)
    with torch.no_grad():
        output = spot.replaced(*double)
    cotangent = torch.randn(output.shape, dtype=output.dtype).to(device)
    results = run(spot.replaced, double, cotangent)
    replaced = off(run(spot.replaced, half, single(cotangent, device)), results)
    return Expected(half, single(cotangent, device), results, replaced, limits(spot, precision, replaced))


def compared(spot: HotSpot, precision: str, held: Expected) -> dict[str, object]:
    """Errors of the kernel, in its present configuration, beside their limits."""
    fused = off(run(lambda *given: spot.fused(precision, *given), held.inputs, held.cotangent), held.results)
    return {
        "errors": fused,
        "replaced_errors": held.replaced_errors,
        "allowed": held.allowed,
        "equal": all(error <= most for error, most in zip(fused, held.allowed)),
    }


def raised(error: Exception) -> dict[str, object]:
    """The line for an exception: a kernel's failure is reported and does not stop the checks."""
    return {"equal": False, "raised": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


# ----------------------------------------------------------------------------------------------------- every configuration


def lines(spot: HotSpot, shape: Shape, precision: str, device: str) -> Iterator[dict[str, object]]:
    """A line for each turn in which a kernel uses a configuration for the first time at this shape and precision."""
    about = {"hot_spot": spot.name, **vars(shape), "precision": precision, "device": device}
    try:
        held = expected(spot, shape, precision, device)
    except Exception as error:  # a kernel's failure is reported and does not stop the checks
        yield about | {"configs": {}} | raised(error)
        return
    met: set[tuple[str, str]] = set()
    for number in range(max(len(names) for names in launching.configurations().values())):
        with launching.turn(number) as launched:
            try:
                found = compared(spot, precision, held)
            except Exception as error:  # a kernel's failure is reported and does not stop the checks
                found = raised(error)
        if launched <= met and "raised" not in found:  # all configurations have been used
            return
        met |= launched
        yield about | {"configs": dict(sorted(launched))} | found


def jobs(shapes: dict[str, tuple[Shape, ...]], precisions: Sequence[str]) -> list[tuple[HotSpot, Shape, str]]:
    """The checks in their order: the first shape of every hot spot in every precision, then the second, and so on."""
    deepest = max((len(few) for few in shapes.values()), default=0)
    return [
        (HOT_SPOTS[name], few[place], precision)
        for place in range(deepest)
        for name, few in shapes.items()
        for precision in precisions
        if place < len(few)
    ]


def check(waiting: Sequence[tuple[HotSpot, Shape, str]], device: str, deadline: float) -> bool:
    """Print the lines of all waiting checks and a summary; begin none after `deadline` (of `time.monotonic`).

    Returns whether all results are right. Checks left at the deadline are counted, and not wrong.
    """
    met: set[tuple[str, str, str]] = set()
    wrong, done, printed = [], 0, 0
    for spot, shape, precision in waiting:
        if time.monotonic() > deadline:
            break
        for found in lines(spot, shape, precision, device):
            print(json.dumps(found), flush=True)
            printed += 1
            configs = found["configs"]
            assert isinstance(configs, dict)
            met |= {(kernel, config, precision) for kernel, config in configs.items()}
            if not found["equal"]:
                wrong.append({key: found[key] for key in found if key not in {"device", "equal", "replaced_errors"}})
        done += 1
    for one in wrong:
        print(json.dumps({"wrong": one}), flush=True)
    kernels = launching.configurations()
    total = sum(len(names) for names in kernels.values()) * len({precision for _, _, precision in waiting})
    left = len(waiting) - done
    summary = {"checked": len(met), "of": total, "lines": printed, "wrong": len(wrong), "left_at_the_deadline": left}
    print(json.dumps(summary), flush=True)
    return not wrong


# -------------------------------------------------------------------------------------------------------- made beforehand


def programs(names: Sequence[str], precisions: Sequence[str]) -> list[Variant]:
    """The machine programs that the checks of these hot spots launch on a GPU."""
    kernels = {kernel for name in names for few in HOT_SPOTS[name].kernels.values() for kernel in few}
    found = [one for name in sorted(kernels) for one in catalogue.find(name).variants() if one.precision in precisions]
    # Partial sums of a kernel with odd channels are stored consecutively, so most of them are not aligned to 16 bytes.
    return found + [replace(one, unaligned=("partial",)) for one in found if "partial" in one.signature]


def compile_before(names: Sequence[str], precisions: Sequence[str], processes: int, timeout_s: float) -> dict[str, object]:
    """Compile the checks' programs for the current device into triton's cache; return how many, and the seconds it took.

    Launches compile the programs that were not compiled in time or failed to compile.
    """
    start, wanted = time.monotonic(), programs(names, precisions)
    found: dict[str, object] = {"programs": len(wanted), "processes": processes}
    try:
        major, minor = torch.cuda.get_device_capability()
        within_s = timeout_s if math.isfinite(timeout_s) else None
        found["compiled"] = resources.compile_all(wanted, f"sm_{major}{minor}", processes, within_s)
    except Exception as error:  # a kernel's failure is reported and does not stop the checks
        found["raised"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return found | {"compiled_s": time.monotonic() - start}
