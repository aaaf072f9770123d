"""Predictions: how much faster a kernel is than the operations it replaces, by counted bytes and MACs. Nothing is run.

`python -m bench.kernel_gains [--hot-spot aol,soc] [--gpu A100,H100,B200] [--precision ieee,tf32x3,tf32]` prints a markdown
table per hot spot, a row per shape of the preset `paper`: MACs and bytes of forward and backward pass together, of the
operations → of the kernel, and the predicted gain on each GPU. A gain stands in brackets where launches are more than half of
the kernel's predicted time: there it hangs on the assumed time of a launch.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lipbench_kernels.launching import PRECISIONS, Work
from lipbench_kernels.roofline import GPUS, Gpu

from bench import works
from bench.hot_spots import HOT_SPOTS, HotSpot, Shape
from lipbench.cases import PRESETS

PRESET = PRESETS["paper"]


def shapes(spot: HotSpot) -> list[Shape]:
    """Shapes of the preset that are different to a hot spot, and that its kernel takes in one precision at least."""
    different: dict[tuple[int, ...], Shape] = {}
    for sizes in PRESET.layer_shapes:
        shape = Shape(*sizes, batch_size=PRESET.batch_size)
        if any(spot.takes(shape, precision) for precision in PRECISIONS):
            different.setdefault(spot.seen(shape), shape)
    return list(different.values())


def gain(spot: HotSpot, shape: Shape, gpu: Gpu, precision: str) -> str:
    """Predicted time of a training pass by the operations over that by the kernel; '–' for what the kernel does not take."""
    if not spot.takes(shape, precision):
        return "–"
    found = works.gain(spot, shape, precision, gpu)
    kernels = [work for phase in works.PHASES for work in works.fused(spot, shape, phase)]
    device_s = sum(works.fused_device_s(spot, shape, phase, gpu, precision) for phase in works.PHASES)
    return f"({found:.1f})" if works.launches_s(kernels) > device_s else f"{found:.1f}"


def row(spot: HotSpot, shape: Shape, gpus: Sequence[Gpu], precisions: Sequence[str]) -> list[str]:
    """The cells of one shape; '–' for an image size that the hot spot does not depend on."""
    any_size = spot.seen(shape) == spot.seen(replace(shape, image_size=shape.image_size + 1))
    image_size = "–" if any_size else str(shape.image_size)
    ours = works.total([work for phase in works.PHASES for work in works.fused(spot, shape, phase)])
    theirs = works.total([work for phase in works.PHASES for work in works.replaced(spot, shape)[phase]])
    return [
        str(shape.channels), image_size, str(shape.kernel_size),
        f"{_readable(theirs.macs / 1e9)} → {_readable(ours.macs / 1e9)}",
        f"{_readable(_megabytes(theirs))} → {_readable(_megabytes(ours))}",
        f"{theirs.launches} → {ours.launches}",
        *(gain(spot, shape, gpu, precision) for precision in precisions for gpu in gpus),
    ]  # fmt: skip


def _readable(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _megabytes(work: Work) -> float:
    return (work.read_bytes + work.written_bytes) / 1e6


def table(spot: HotSpot, gpus: Sequence[Gpu], precisions: Sequence[str]) -> Iterator[str]:
    """The lines of a hot spot's table."""
    predicted = [f"{gpu.name} {precision}" for precision in precisions for gpu in gpus]
    head = ["c", "s", "k", "10⁹ MACs", "MB", "launches", *predicted]
    yield f"**{spot.summary}**, forward and backward pass, float32"
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for shape in shapes(spot):
        yield f"| {' | '.join(row(spot, shape, gpus, precisions))} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hot-spot", default=",".join(HOT_SPOTS))
    parser.add_argument("--gpu", default="A100,H100,B200")
    parser.add_argument("--precision", default=",".join(PRECISIONS))
    given = parser.parse_args()
    gpus = [GPUS[name] for name in given.gpu.split(",")]
    for name in given.hot_spot.split(","):
        print("\n".join(table(HOT_SPOTS[name], gpus, given.precision.split(","))))


if __name__ == "__main__":
    main()
