"""Times of kernels and of the operations they replace, compared with predictions: `bench.kernels --time`.

A forward pass is timed as training runs it, with its graph kept. So the kernel writes the iterates that its count in the
catalogue includes, and autograd keeps the tensors of the replaced operations. A backward pass is timed alone, on a kept graph.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from lipbench_kernels import launching, roofline
from torch import Tensor

from bench import equality, works
from bench.hot_spots import HOT_SPOTS, HotSpot, Shape

TURNS = 3
TURN_MS = 50
"""sampling time of one call in one turn"""
HOST_CALLS = 10
BATCH_SIZE = 256

SHAPES: tuple[tuple[tuple[str, ...], tuple[int, int, int]], ...] = (
    (("aol", "soc"), (256, 8, 3)),
    (("bjorck",), (64, 32, 3)),
    (("newton",), (32, 32, 3)),
    (("soc", "aol"), (64, 32, 3)),
    (("aol", "soc"), (512, 8, 3)),
    (("soc", "aol"), (1024, 4, 3)),
    (("sll", "soc-step"), (256, 8, 3)),
    (("sll", "soc-step"), (64, 32, 3)),
    (("sll",), (512, 8, 3)),
    (("sll",), (1024, 4, 3)),
)
"""Hot spots at layers (channels, image, kernel), the most important first, because a run may be cut short."""


def jobs(
    names: Sequence[str], precisions: Sequence[str], shapes: Sequence[Shape] | None = None, batch_size: int = BATCH_SIZE
) -> list[tuple[HotSpot, Shape, str]]:
    """The hot spots and shapes to time, in order: `SHAPES`, or every hot spot at the given shapes, without duplicates."""
    if shapes is None:
        wanted = [(name, Shape(*sizes, batch_size=batch_size)) for few, sizes in SHAPES for name in few if name in names]
    else:
        wanted = [(name, shape) for shape in shapes for name in names]
    seen: dict[tuple[object, ...], tuple[HotSpot, Shape, str]] = {}
    for name, shape in wanted:
        spot = HOT_SPOTS[name]
        for precision in precisions:
            if spot.takes(shape, precision):
                seen.setdefault((name, precision, *spot.seen(shape)), (spot, shape, precision))
    return list(seen.values())


def calls(call: Callable[..., Tensor], inputs: Sequence[Tensor]) -> dict[str, Callable[[], object]]:
    """Two calls to time: the forward pass with its graph, and the backward pass alone."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = call(*leaves)
    cotangent = torch.randn_like(output)
    return {
        "forward": lambda: call(*leaves),
        "backward": lambda: torch.autograd.grad(output, leaves, cotangent, retain_graph=True),
    }


def both(spot: HotSpot, inputs: Sequence[Tensor], precision: str) -> dict[str, dict[str, Callable[[], object]]]:
    """'fused' and 'replaced' → phase → the call."""
    return {
        "fused": calls(lambda *given: spot.fused(precision, *given), inputs),
        "replaced": calls(spot.replaced, inputs),
    }


def timing(compared: dict[str, dict[str, Callable[[], object]]]) -> dict[str, object]:
    """Median seconds of kernel and replaced operations, turn by turn, by triton's clock; and the host's seconds for a call."""
    from triton.testing import do_bench

    samples: dict[str, list[float]] = {}
    host: dict[str, object] = {}
    for _ in range(TURNS):
        for who, phases in compared.items():
            for phase, call in phases.items():
                taken_ms = do_bench(call, warmup=10, rep=TURN_MS, return_mode="median")
                samples.setdefault(f"{who}_{phase}_s", []).append(float(taken_ms) * 1e-3)
    for who, phases in compared.items():
        for phase, call in phases.items():
            host[f"{who}_{phase}_host_s"] = host_s(call)
    return {name: statistics.median(taken) for name, taken in samples.items()} | host | {"turns": samples}


def host_s(call: Callable[[], object]) -> float:
    """Seconds until a call returns, while its work may still be queued on the device: the least of `HOST_CALLS`."""
    taken = []
    for _ in range(HOST_CALLS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def against_roofline(spot: HotSpot, shape: Shape, precision: str, found: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Measured and predicted gain, and the share of the roofline that the kernel reaches, of each phase."""
    gpu = roofline.by_device_name(torch.cuda.get_device_name())
    for phase in works.PHASES:
        fused, replaced = found[f"fused_{phase}_s"], found[f"replaced_{phase}_s"]
        assert isinstance(fused, float)
        assert isinstance(replaced, float)
        yield f"{phase}_gain", replaced / fused
        yield f"{phase}_tflops", 2 * works.total(works.fused(spot, shape, phase)).macs / fused / 1e12
        if gpu is not None:
            least = works.fused_device_s(spot, shape, phase, gpu, precision)
            yield f"{phase}_roofline", least / fused
            yield f"{phase}_predicted_gain", works.gain(spot, shape, precision, gpu, [phase])


def line(spot: HotSpot, shape: Shape, precision: str, device: str) -> dict[str, object]:
    """The results for one hot spot at one shape: first whether it is right, then its times, and the tuned configurations.

    An operation that fails is named and counts as unequal. In the interpreter each call is made once and not timed.
    """
    found: dict[str, object] = {"hot_spot": spot.name, **vars(shape), "precision": precision, "device": device}
    before = launching.chosen()
    try:
        held = equality.expected(spot, shape, precision, device)
        found |= equality.compared(spot, precision, held)
        compared = both(spot, held.inputs, precision)
        if launching.interpreted():
            for phases in compared.values():
                for call in phases.values():
                    call()
            found["timing"] = "interpreted, not a timing"
        else:
            found |= timing(compared)
            found |= dict(against_roofline(spot, shape, precision, found))
    except Exception as error:  # a kernel's failure is reported and does not stop the run
        found |= equality.raised(error)
    taken = launching.tuning_s()
    new = {key: name for key, name in launching.chosen().items() if key not in before}
    return found | {"chosen": new, "tuning_s": sum(taken[key] for key in new)}
