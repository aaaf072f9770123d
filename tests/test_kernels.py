"""The machine code of kernels, made and read without a GPU: what it takes, that a spill is seen, rooflines, and the verb."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("triton", reason="kernels need triton")

import triton
import triton.language as tl
from lipbench_kernels import catalogue, machine_code, resources, roofline
from lipbench_kernels.launching import PRECISIONS, Kernel, Variant, Work

from bench import works
from bench.hot_spots import HOT_SPOTS, HotSpot, Shape
from lipbench.cli import main as cli
from lipbench.prediction import kernels as kernel_report

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="a process that interprets kernels cannot compile them"
)

ROOT = Path(__file__).parents[1]
USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function tile_kernel:
  REG:255 STACK:376 SHARED:1024 LOCAL:0 CONSTANT[0]:944 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
SASS = """
        /*0030*/                   VIADD R1, R1, 0xfffffff8 ;                      /* 0xfffffff801017836 */
                                                                                   /* 0x004fc80000000000 */
        /*0950*/                   STL.64 [R1], R10 ;                              /* 0x0000000a01007387 */
        /*14e0*/                   LDGSTS.E [R11], desc[UR8][R4.64] ;              /* 0x000000000b0079ae */
        /*1540*/              @!P0 LDL.64 R18, [R1] ;                              /* 0x0000000001127983 */
        /*1550*/                   STS.128 [R20], R4 ;                             /* 0x0000000414007388 */
        /*1560*/                   LDL R19, [R1+0x4] ;                             /* 0x0000040001137983 */
"""
"""as cuobjdump prints them, cut to what matters"""
MOST = ("registers", "stack_bytes", "shared_bytes", "spills")


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def tile_kernel(source, target, SIZE: tl.constexpr, STEPS: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """A square tile times itself, some times over."""
    place = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tile = tl.load(source + place)
    for _ in range(STEPS):
        tile = tl.dot(tile, tile, input_precision=PRECISION)
    tl.store(target + place, tile)


def variant(size: int, warps: int = 4, precision: str = "ieee") -> Variant:
    return Variant(
        kernel="tile",
        config=f"size-{size}",
        precision=precision,
        function=tile_kernel,
        signature={"source": "*fp32", "target": "*fp32", "SIZE": "constexpr", "STEPS": "constexpr", "PRECISION": "constexpr"},
        constants={"SIZE": size, "STEPS": 2, "PRECISION": precision},
        warps=warps,
        stages=2,
        shape=f"{size} × {size}",
    )


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def shares_kernel(source, target, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Values over their sum, all of which have to be kept until that is known."""
    place = tl.arange(0, SIZE)
    values = tl.load(source + place)
    tl.store(target + place, values / tl.sum(values))


SPILLING = Variant(
    kernel="shares",
    config="one-warp",
    precision="ieee",
    function=shares_kernel,
    signature={"source": "*fp32", "target": "*fp32", "SIZE": "constexpr"},
    constants={"SIZE": 16384},
    warps=1,
    stages=1,
)
"""512 values in each of 32 threads, which have at most 255 registers"""


def work(size: int) -> Work:
    return Work(macs=2 * size**3, read_bytes=4 * size**2, written_bytes=4 * size**2)


def replaced(size: int) -> Work:
    return Work(macs=2 * size**3, read_bytes=8 * size**2, written_bytes=8 * size**2, launches=2)


def kernel(*variants: Variant) -> Kernel:
    def listed() -> Iterator[Variant]:
        yield from variants

    return Kernel("tile", "a tile times itself", listed, work, replaced, {"size": 16})


# ---------------------------------------------------------------------------------------------------------- the catalogue


@pytest.mark.parametrize("architecture", resources.ARCHITECTURES)
@pytest.mark.parametrize("name", [one.name for one in catalogue.KERNELS])
def test_every_variant_fits_its_architecture_without_a_stack(name: str, architecture: str) -> None:
    found = [resources.measure(one, architecture) for one in catalogue.find(name).variants()]
    assert found
    assert not [
        (one.variant.config, one.variant.precision, one.variant.shape, one.stack_bytes, one.shared_bytes)
        for one in found
        if not one.ships or (one.stack_bytes and triton.__version__ == resources.TESTED_TRITON)
    ]
    assert all(16 <= one.registers <= 255 for one in found)


def test_names_are_used_once_and_variants_name_their_kernel() -> None:
    names = [one.name for one in catalogue.KERNELS]
    assert len(set(names)) == len(names)
    for one in catalogue.KERNELS:
        variants = list(one.variants())
        assert {each.kernel for each in variants} == {one.name}
        assert {each.precision for each in variants} <= set(PRECISIONS)
        places = [(each.config, each.precision, each.shape) for each in variants]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("one", catalogue.KERNELS, ids=lambda one: one.name)
def test_a_kernel_moves_less_than_what_it_replaces(one: Kernel) -> None:
    fused, unfused = one.work(**one.example), one.replaced(**one.example)
    assert fused.read_bytes + fused.written_bytes < unfused.read_bytes + unfused.written_bytes
    assert fused.macs > 0
    assert fused.launches > 0


# ------------------------------------------------------------------------------------------------------- the machine code


@pytest.mark.parametrize("architecture", resources.ARCHITECTURES)
def test_a_spill_is_seen(architecture: str) -> None:
    found = resources.measure(SPILLING, architecture)
    assert found.stack_bytes > 0
    assert found.spills > 0
    assert not found.ships


def test_what_fits_in_registers_has_no_stack_and_its_shared_memory_is_counted() -> None:
    found = resources.measure(variant(32), "sm_80")
    assert (found.stack_bytes, found.spills) == (0, 0)
    assert found.ships
    assert found.shared_bytes >= 32 * 32 * 4
    assert replace(found, shared_bytes=163 * 1024 + 1).ships is False


def test_other_processes_find_the_same_in_the_same_order() -> None:
    variants = [variant(16), variant(32)]
    architectures = ("sm_80", "sm_90")
    alone = [resources.measure(one, architecture) for one in variants for architecture in architectures]
    assert resources.measure_all(variants, architectures, processes=2) == alone


def test_usage_as_cuobjdump_prints_it() -> None:
    assert resources.parse_usage(USAGE) == resources.Usage(registers=255, stack_bytes=376, shared_bytes=1024)
    assert resources.parse_usage(USAGE.replace("LOCAL:0", "LOCAL:8")).stack_bytes == 384
    for text in ("", "cuobjdump fatal   : unknown option", USAGE + USAGE):
        with pytest.raises(resources.CannotCompileError, match="cuobjdump printed no resources"):
            resources.parse_usage(text)


def test_spills_are_instructions_on_local_memory_alone() -> None:
    assert machine_code.count_spills(SASS) == 3


def test_a_missing_and_a_failing_cuobjdump_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    broken = tmp_path / "kernel.cubin"
    broken.write_bytes(b"no machine code")
    with pytest.raises(resources.CannotCompileError, match="cannot read the machine code"):
        resources._cuobjdump("--dump-resource-usage", broken)

    def missing(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(resources.CannotCompileError, match="cuobjdump was not found"):
        resources._cuobjdump("--dump-resource-usage", broken)


# ------------------------------------------------------------------------------------------------------------- rooflines


def test_ridges_by_hand() -> None:
    a100 = roofline.GPUS["A100"]
    assert a100.ridge("ieee") == pytest.approx(19.5 / 2.039)
    assert a100.ridge("tf32") == pytest.approx(156 / 2.039)
    for gpu in roofline.GPUS.values():
        assert gpu.flops_per_s("tf32x3") == pytest.approx(gpu.flops_per_s("tf32") / 3)
        assert gpu.flops_per_s("ieee") <= gpu.flops_per_s("tf32") < gpu.half_flops_per_s
        if gpu.architecture != "sm_89":  # where tensor cores are too few, three products are slower than one in float32
            assert gpu.flops_per_s("ieee") < gpu.flops_per_s("tf32x3")
    assert [roofline.find(name) for name in resources.ARCHITECTURES] == [
        roofline.GPUS[name] for name in ("A100", "H100", "B200")
    ]
    assert roofline.find("sm_86") is None


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA A100-SXM4-40GB", None), ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", None), ("NVIDIA H200", "H200"), ("NVIDIA H200 NVL", None),
        ("NVIDIA B200", "B200"), ("NVIDIA GB200", None), ("NVIDIA L4", "L4"), ("NVIDIA L40", None),
        ("NVIDIA L40S", "L40S"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)  # fmt: skip
def test_devices_by_what_pytorch_calls_them(name: str, known: str | None) -> None:
    found = roofline.by_device_name(name)
    assert (found.name if found else None) == known


def test_predicted_times_by_hand() -> None:
    gpu = replace(roofline.GPUS["A100"], float32_flops_per_s=1e12, bytes_per_s=1e9)
    moving = Work(macs=500, read_bytes=600_000, written_bytes=400_000)
    assert roofline.device_s(moving, gpu, "ieee") == pytest.approx(1e-3)
    assert roofline.predicted_s(moving, gpu, "ieee") == pytest.approx(1e-3 + roofline.GAP_S)
    assert roofline.bound(moving, gpu, "ieee") == "memory"
    computing = Work(macs=10**9, read_bytes=1000, written_bytes=0)
    assert roofline.device_s(computing, gpu, "ieee") == pytest.approx(2e-3)
    assert roofline.device_s(computing, gpu, "ieee", flops_per_s=5e11) == pytest.approx(4e-3)
    assert roofline.bound(computing, gpu, "ieee") == "compute"
    assert roofline.gain(moving, moving + moving, gpu, "ieee") == pytest.approx(2)


def test_the_host_bounds_what_the_device_does_faster() -> None:
    """A tuned kernel costs the host more than an operation; both run beside the device, and the later one counts."""
    gpu = roofline.GPUS["H100"]
    tiny = Work(macs=1, read_bytes=4, written_bytes=4, launches=3, tuned=1)
    assert roofline.host_s(tiny) == pytest.approx(2 * roofline.HOST_S + roofline.TUNED_HOST_S)
    assert roofline.predicted_s(tiny, gpu, "ieee") == pytest.approx(roofline.host_s(tiny), rel=1e-6)
    assert roofline.bound(tiny, gpu, "ieee") == "host"
    assert roofline.bound(Work(10**10, 4, 4, launches=3, tuned=1), gpu, "ieee") == "compute"
    busy_s = 2.4 * roofline.HOST_S  # more than the host's 2 × 5 µs, less than the gaps of a slow device's 10 launches
    assert roofline.elapsed_s(busy_s, Work(0, 0, 0, launches=2)) == pytest.approx(busy_s + 2 * roofline.GAP_S)


# --------------------------------------------------------------------------------------------------------------- the verb


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["kernels", *arguments])
    out, err = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel in two precisions in place of the catalogue, compiled in this process."""
    monkeypatch.setattr(kernel_report, "usable_cores", lambda: 1)
    monkeypatch.setattr(catalogue, "KERNELS", (kernel(variant(16), variant(16, precision="tf32x3")),))


@pytest.mark.usefixtures("small")
def test_the_verb_prints_a_line_per_kernel_with_the_most_that_a_program_takes(capfd: pytest.CaptureFixture[str]) -> None:
    rows = pd.read_csv(io.StringIO(run(capfd, "--format", "csv")[1]))
    code, out, err = run(capfd)
    assert (code, err) == (0, "")
    (line,) = (line.split() for line in out.splitlines() if line.startswith((" tile ", "tile ")))
    assert line[:7] == ["tile", "6", "all", *(str(rows[name].max()) for name in MOST)]
    assert not any(f" {gpu} " in out for gpu in ("A100", "H100", "B200"))
    assert "--all" in out


@pytest.mark.usefixtures("small")
def test_the_summary_counts_what_cannot_ship(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    measure, stacks = resources.measure, iter([0, resources.MOST_STACK_BYTES + 8])
    monkeypatch.setattr(resources, "measure", lambda one, where: replace(measure(one, where), stack_bytes=next(stacks)))
    code, out, _ = run(capfd, "--arch", "sm_80", "--format", "markdown")
    assert code == 3
    cells = out.splitlines()[2].split(" | ")
    assert (cells[1], cells[2], cells[4], cells[-1]) == ("2", "1", "40", r"size-16 tf32x3 16 × 16 sm\_80 |")


@pytest.mark.usefixtures("small")
def test_all_prints_a_row_per_variant_and_architecture(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "--all")
    assert (code, err) == (0, "")
    assert "6 programs of 1 kernel, by triton" in out
    assert "; none of them with more than 32 bytes of stack" in out
    assert [out.count(f" {gpu} ") for gpu in ("A100", "H100", "B200")] == [2, 2, 2]
    assert "tile: size = 16" in out


@pytest.mark.usefixtures("small")
def test_the_verb_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "--format", "json", "--arch", "sm_80,sm_86")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [list(row) for row in rows] == [list(kernel_report.COLUMNS)] * 4
    assert [(row["precision"], row["architecture"]) for row in rows] == [
        ("ieee", "sm_80"), ("ieee", "sm_86"), ("tf32x3", "sm_80"), ("tf32x3", "sm_86"),
    ]  # fmt: skip
    assert rows[0]["flops_per_byte"] == 2 * 2 * 16**3 / (8 * 16**2)
    assert rows[0]["ridge_flops_per_byte"] == pytest.approx(roofline.GPUS["A100"].ridge("ieee"))
    assert rows[1]["gpu"] is None
    assert rows[2]["ridge_flops_per_byte"] == pytest.approx(roofline.GPUS["A100"].ridge("tf32x3"))


@pytest.mark.usefixtures("small")
def test_the_verb_names_what_spills_and_fails(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(catalogue, "KERNELS", (kernel(variant(16)), replace(kernel(SPILLING), name="shares")))
    code, out, err = run(capfd, "--arch", "sm_80")
    assert (code, err) == (3, "")
    assert f"2 programs of 2 kernels, by triton {triton.__version__}" in out
    assert "; 1 of them with more than 32 bytes of stack" in out
    assert "shares one-warp ieee sm_80: " in out


@pytest.mark.usefixtures("small")
def test_a_little_stack_is_a_remark_of_the_version_that_made_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    measure = resources.measure
    monkeypatch.setattr(resources, "measure", lambda one, where: replace(measure(one, where), stack_bytes=stack))
    monkeypatch.setattr(triton, "__version__", "3.99")
    for stack, expected in ((resources.MOST_STACK_BYTES, 0), (resources.MOST_STACK_BYTES + 8, 3)):
        code, out, err = run(capfd, "--arch", "sm_80", "--all")
        assert (code, err) == (expected, "")
        assert f"by triton 3.99, which is not the tested {resources.TESTED_TRITON};" in out
        assert f"tile size-16 ieee 16 × 16 sm_80: {stack} bytes of stack" in out
        assert ("2 with a stack of up to 32 bytes, which ships" in out) is (expected == 0)


def test_the_tested_version_is_that_of_the_constraints() -> None:
    assert f"triton=={resources.TESTED_TRITON}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_oldest_pair_of_versions_is_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest, *_, newest = project["tool"]["lipbench"]["versions"]
    lowest = {name: oldest[name].removesuffix(".0") for name in ("torch", "triton")}
    assert f"torch>={lowest['torch']}" in project["project"]["dependencies"]
    assert project["project"]["optional-dependencies"]["triton"] == [f"triton>={lowest['triton']}; sys_platform == 'linux'"]
    tested = tuple(int(part) for part in resources.TESTED_TRITON.split("."))
    between = [tuple(int(part) for part in pair["triton"].split(".")) for pair in (oldest, newest)]
    assert between[0] <= tested <= between[1]


@pytest.mark.usefixtures("small")
def test_the_verb_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        code, out, err = run(capfd, *arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        return err

    assert "unknown architecture: got 'sm_7'; choose from sm_80" in refused("--arch", "sm_7")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "got TRITON_INTERPRET=1; unset it" in refused()
    monkeypatch.setattr(kernel_report, "find_spec", lambda name: None)
    assert "kernels need triton" in refused()


# ---------------------------------------------------------------------------------------------------- what is predicted


SHAPE = Shape(channels=8, image_size=6, kernel_size=3, batch_size=4)


def test_operations_are_counted_one_by_one() -> None:
    """A step of SOC by hand: convolution, division, addition; backward, the division's and the convolution's two gradients."""
    images, parameters = 4 * SHAPE.batch_size * 8 * 36, 4 * 9 * 64
    macs = SHAPE.batch_size * 36 * 9 * 64
    counted = works.replaced(HOT_SPOTS["soc-step"], SHAPE)
    assert counted["forward"] == (
        Work(macs, images + parameters, images),
        Work(0, images, images),
        Work(0, 2 * images, images),
    )
    assert counted["backward"] == (
        Work(0, images, images),
        Work(macs, images + parameters, images),
        Work(macs, 2 * images, parameters),
    )


@pytest.mark.parametrize("spot", HOT_SPOTS.values(), ids=lambda spot: spot.name)
@pytest.mark.parametrize("phase", works.PHASES)
def test_the_catalogue_counts_what_is_replaced_as_the_operations_do(spot: HotSpot, phase: str) -> None:
    """Sums of hand-made formulas beside operations that were really dispatched: MACs alike, bytes to a seventh.

    Formulas may leave out what is small: the identity that Newton's steps add, or a tensor that two gradients read.
    """
    (name,) = spot.kernels[phase]
    formula = catalogue.find(name).replaced(**spot.sizes(SHAPE))
    counted = works.total(works.replaced(spot, SHAPE)[phase])
    assert counted.macs == formula.macs
    moved = counted.read_bytes + counted.written_bytes
    assert moved == pytest.approx(formula.read_bytes + formula.written_bytes, rel=1 / 7)


def test_predicted_gains_by_hand() -> None:
    """Bound by the host alone, the gain is the quotient of its times: 6 operations to 3 tuned kernels and 5 operations."""
    gpu = replace(roofline.GPUS["A100"], float32_flops_per_s=1e30, bytes_per_s=1e30)
    spot = HOT_SPOTS["soc-step"]
    ours_s = 5 * roofline.HOST_S + 3 * roofline.TUNED_HOST_S
    assert works.gain(spot, SHAPE, "ieee", gpu) == pytest.approx(6 * roofline.HOST_S / ours_s)


def test_few_programs_have_their_share_of_a_gpu() -> None:
    gpu, work = roofline.GPUS["A100"], Work(10**9, 10**6, 10**6)
    assert roofline.device_s(work, gpu, "ieee", programs=27) == pytest.approx(4 * roofline.device_s(work, gpu, "ieee"))
    assert roofline.device_s(work, gpu, "ieee", programs=1000) == roofline.device_s(work, gpu, "ieee")
