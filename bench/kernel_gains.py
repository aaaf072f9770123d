"""Predicted gains of kernels over the operations they replace, from counted bytes and MACs. Nothing is run.

`lipbench kernels --format json > kernels.json`, then `python -m bench.kernel_gains --programs kernels.json [--hot-spot
aol,soc] [--gpu A100,H100,B200] [--precision ieee,tf32x3,tf32]` prints a markdown table per hot spot, a row per shape of the
preset `paper`: MACs and bytes of forward and backward pass together, of the operations → of the kernel, and the predicted
gain on each GPU. "5.1 / 4.4": with products at the GPU's peak, and with products at the ceiling of the kernel's own machine
program; one figure where they agree, or where the ceiling is unknown. "h": the host bounds the kernel's time, so that the
figure depends on the assumed cost of a launch. The ceilings themselves, in TFLOP/s for k = 3, come before the tables.
Without --programs only the peak is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lipbench_kernels import roofline
from lipbench_kernels.launching import PRECISIONS, Work
from lipbench_kernels.roofline import GPUS, Gpu

from bench import ceilings, works
from bench.hot_spots import HOT_SPOTS, HotSpot, Shape
from bench.works import Ceiling
from lipbench.cases import PRESETS

PRESET = PRESETS["paper"]


def shapes(spot: HotSpot) -> list[Shape]:
    """Shapes of the preset that differ for a hot spot, and that its kernel takes in at least one precision."""
    different: dict[tuple[int, ...], Shape] = {}
    for sizes in PRESET.layer_shapes:
        shape = Shape(*sizes, batch_size=PRESET.batch_size)
        if any(spot.takes(shape, precision) for precision in PRECISIONS):
            different.setdefault(spot.seen(shape), shape)
    return list(different.values())


def gain(spot: HotSpot, shape: Shape, gpu: Gpu, precision: str, ceiling: Ceiling | None) -> str:
    """Predicted time of a training pass with the operations over that with the kernel; '–' for unsupported shapes."""
    if not spot.takes(shape, precision):
        return "–"
    figures = [f"{works.gain(spot, shape, precision, gpu):.1f}"]
    if ceiling and all(ceiling(spot, shape, phase, gpu, precision) for phase in works.PHASES):
        figures.append(f"{works.gain(spot, shape, precision, gpu, ceiling=ceiling):.1f}")
    kernels = works.total([work for phase in works.PHASES for work in works.fused(spot, shape, phase)])
    host = works.fused_s(spot, shape, precision, gpu, ceiling=ceiling) <= roofline.host_s(kernels)
    return " / ".join(dict.fromkeys(figures)) + " h" * host


def row(
    spot: HotSpot, shape: Shape, gpus: Sequence[Gpu], precisions: Sequence[str], ceiling: Ceiling | None = None
) -> list[str]:
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
        *(gain(spot, shape, gpu, precision, ceiling) for precision in precisions for gpu in gpus),
    ]  # fmt: skip


def _readable(value: float) -> str:
    """A number with three digits, or with all digits before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _megabytes(work: Work) -> float:
    return (work.read_bytes + work.written_bytes) / 1e6


def ceilings_table(spots: Sequence[HotSpot], gpus: Sequence[Gpu], precisions: Sequence[str], ceiling: Ceiling) -> Iterator[str]:
    """The lines of the table of ceilings, for the programs of 256 channels on 8 × 8 images, or for the largest matrices."""
    heads = [f"{gpu.name} {precision}" for precision in precisions for gpu in gpus]
    yield f"| program | {' | '.join(heads)} |"
    yield f"|{'---|' * (len(heads) + 1)}"
    for spot in spots:
        shape = Shape(min(256, spot.largest("ieee") if spot.largest else 256), 8, 3, PRESET.batch_size)
        for phase in works.PHASES:
            found = (ceiling(spot, shape, phase, gpu, precision) for precision in precisions for gpu in gpus)
            cells = [f"{value / 1e12:.0f}" if value else "–" for value in found]
            yield f"| {spot.summary}, {phase} | {' | '.join(cells)} |"
    yield ""


def table(spot: HotSpot, gpus: Sequence[Gpu], precisions: Sequence[str], ceiling: Ceiling | None = None) -> Iterator[str]:
    """The lines of a hot spot's table."""
    predicted = [f"{gpu.name} {precision}" for precision in precisions for gpu in gpus]
    head = ["c", "s", "k", "10⁹ MACs", "MB", "launches", *predicted]
    yield f"**{spot.summary}**, forward and backward pass, float32"
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for shape in shapes(spot):
        yield f"| {' | '.join(row(spot, shape, gpus, precisions, ceiling))} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hot-spot", default=",".join(HOT_SPOTS))
    parser.add_argument("--gpu", default="A100,H100,B200")
    parser.add_argument("--precision", default=",".join(PRECISIONS))
    parser.add_argument("--programs", type=Path, help="the output of `lipbench kernels --format json`")
    given = parser.parse_args()
    gpus, precisions = [GPUS[name] for name in given.gpu.split(",")], given.precision.split(",")
    spots = [HOT_SPOTS[name] for name in given.hot_spot.split(",")]
    ceiling = ceilings.of(ceilings.read(given.programs)) if given.programs else None
    if ceiling:
        print("\n".join(ceilings_table(spots, gpus, precisions, ceiling)))
    for spot in spots:
        print("\n".join(table(spot, gpus, precisions, ceiling)))


if __name__ == "__main__":
    main()
