"""Compare the batches of `lipbench fits` with whole predictions on both sides: a batch fits, and one image more does not.

`python -m bench.fits_agreement [--network S,M] [--method …] [--memory 24GB] [--recompute] [--device cuda]` prints a line per
network, for training and for inference: the batch, and the predicted peaks at one image less, at the batch, and at one image
more. The peaks are those of `lipbench predict`, of a network that is built again for each. Exit code 1 where a batch is not
the largest that fits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from lipbench.bounds import bytes_of
from lipbench.cases import PAPER_METHODS, Case, NetworkSpec
from lipbench.prediction import largest, memory
from lipbench.quantities import Memory


def compare(case: Case, limit_bytes: int) -> Iterator[tuple[str, int, list[int | None], bool]]:
    """What, the largest batch of `fits`, the peaks at one image less, at the batch and at one more, and whether they agree."""

    @cache
    def predicted(batch: int) -> Memory:
        return memory.memory(replace(case, batch_size=batch))

    frame, _ = largest.table([case], limit_bytes)
    for what, peak in (("training", memory.training_peak), ("inference", memory.inference_peak)):
        batch, said = int(frame[f"{what}_batch"].iloc[0]), int(frame[f"{what}_peak_bytes"].iloc[0])
        sizes = [peak(predicted(count)) if 0 < count <= largest.MOST else None for count in (batch - 1, batch, batch + 1)]
        below, own, above = sizes
        fits = (below is None or below <= limit_bytes) and (own is None or own <= limit_bytes)
        agrees = fits and (above is None or above > limit_bytes) and said == (own if batch else above)
        yield what, batch, sizes, agrees


def cases(methods: Sequence[str], networks: Sequence[str], device: str, *, recompute: bool = False) -> list[Case]:
    return [Case(NetworkSpec(method, size), 1, device=device, recompute=recompute) for size in networks for method in methods]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default=",".join(PAPER_METHODS))
    parser.add_argument("--network", default="S,M")
    parser.add_argument("--memory", default="24GB")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    given = parser.parse_args()
    limit_bytes = bytes_of("--memory", given.memory)
    failed = False
    print(f"{'network':24} {'':9} {'batch':>6} {'one less':>15} {'peak bytes':>15} {'one more':>15}")
    for case in cases(given.method.split(","), given.network.split(","), given.device, recompute=given.recompute):
        for what, batch, sizes, agrees in compare(case, limit_bytes):
            failed |= not agrees
            shown = " ".join(f"{'-' if size is None else f'{size:,}':>15}" for size in sizes)
            print(f"{case.spec.slug:24} {what:9} {batch:6d} {shown}{'' if agrees else '  WRONG'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
