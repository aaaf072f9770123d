"""Predicted gains: the ceilings that machine code sets, and what bounds a kernel's time."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="kernels need triton")

from lipbench_kernels import catalogue, resources, roofline

from bench import ceilings, kernel_gains, works
from bench.hot_spots import HOT_SPOTS, HotSpot, Shape

H100 = roofline.GPUS["H100"]
SHAPE = Shape(channels=16, image_size=8, kernel_size=3, batch_size=256)


def rows(tflops: float | None) -> list[dict[str, object]]:
    """What `lipbench kernels --format json` prints, with one ceiling everywhere."""
    return [
        {
            "kernel": kernel.name, "shape": one.shape, "precision": one.precision, "architecture": architecture,
            "program_tflops": tflops,
        }
        for kernel in catalogue.KERNELS
        for one in kernel.variants()
        for architecture in resources.ARCHITECTURES
    ]  # fmt: skip


@pytest.mark.parametrize("spot", HOT_SPOTS.values(), ids=lambda spot: spot.name)
@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, channels=256, kernel_size=1)], ids=["small", "large"])
def test_every_phase_of_a_hot_spot_names_programs_of_the_catalogue(spot: HotSpot, shape: Shape) -> None:
    if not spot.takes(shape, "ieee"):
        shape = replace(shape, channels=32)
    for phase in works.PHASES:
        assert ceilings.of(rows(7.0))(spot, shape, phase, H100, "ieee") == pytest.approx(7e12)


def test_the_best_configuration_counts_and_programs_share_the_products() -> None:
    """Half of the products at 10, half at 40 TFLOP/s take as long as all of them at 16."""
    found = rows(10.0)
    for row in found:
        if row["kernel"] == "soc_step_backward" and row["shape"] == "k = 3, kernel":
            row["program_tflops"] = 40.0
    slower = [{**row, "program_tflops": 1.0} for row in found]
    ceiling = ceilings.of(found + slower)
    assert ceiling(HOT_SPOTS["soc-step"], SHAPE, "backward", H100, "tf32") == pytest.approx(16e12)
    assert ceiling(HOT_SPOTS["soc-step"], SHAPE, "forward", H100, "tf32") == pytest.approx(10e12)
    assert ceilings.of(found + rows(None))(HOT_SPOTS["soc-step"], SHAPE, "forward", H100, "tf32") is None


def test_a_gain_has_both_ceilings_and_says_where_the_host_bounds_it() -> None:
    spot, large = HOT_SPOTS["aol"], Shape(1024, 8, 3, 256)
    ceiling = ceilings.of(rows(H100.float32_flops_per_s / 2e12))
    peak, program = (float(one) for one in kernel_gains.gain(spot, large, H100, "ieee", ceiling).split(" / "))
    assert program == pytest.approx(peak / 2, rel=0.05)
    assert kernel_gains.gain(spot, large, H100, "ieee", None) == f"{peak:.1f}"
    assert kernel_gains.gain(spot, SHAPE, H100, "ieee", None).endswith(" h")
    assert kernel_gains.gain(HOT_SPOTS["newton"], large, H100, "ieee", ceiling) == "–"


def test_the_table_of_ceilings_has_a_line_for_every_phase() -> None:
    head, _, *lines, empty = kernel_gains.ceilings_table(list(HOT_SPOTS.values()), [H100], ["ieee"], ceilings.of(rows(41.0)))
    assert head == "| program | H100 ieee |"
    assert len(lines) == 2 * len(HOT_SPOTS)
    assert all(line.endswith("| 41 |") for line in lines)
    assert empty == ""
