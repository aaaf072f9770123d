"""Machine code as text: instructions, loops, and the ceilings that follow from them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="kernels need triton")

from lipbench_kernels import machine_code, roofline
from lipbench_kernels.machine_code import Loop

CODE = Path(__file__).parent / "machine_code"
"""cuobjdump's text of programs from triton 3.7.1: the loop and its surroundings, without the encodings"""

NESTED = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   FFMA R2, R2, R3, R4 ;
        /*0020*/              @!P0 BRA 0x70 ;
        /*0030*/                   LDS.128 R4, [R9] ;
        /*0040*/                   FFMA R2, R4, R5, R2 ;
        /*0050*/                   FFMA R3, R6, R7, R3 ;
        /*0060*/               @P1 BRA 0x30 ;
        /*0070*/                   IADD3 R9, R9, 0x4, RZ ;
        /*0080*/             @!UP0 BRA 0x10 ;
        /*0090*/                   EXIT ;
        /*00a0*/                   BRA 0xa0;
"""


def test_the_innermost_loop_with_products_counts() -> None:
    """Four instructions from 0x30 to 0x60, of which two make 32 products each."""
    assert machine_code.busiest_loop(NESTED) == Loop(instructions=4, macs=64)
    assert machine_code.busiest_loop(NESTED.replace("FFMA", "FADD")) == Loop()
    assert machine_code.busiest_loop("") == Loop()


def test_a_branch_forward_is_no_loop_and_a_loop_without_products_hides_none() -> None:
    """If the inner loop has no products, the outer one counts as innermost: 0x10 to 0x80."""
    inner = NESTED.replace("FFMA R2, R4, R5, R2", "FADD R2, R4, R5").replace("FFMA R3, R6, R7, R3", "FADD R3, R6, R7")
    assert machine_code.busiest_loop(inner) == Loop(instructions=8, macs=32)


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("FFMA", 32), ("FFMA.FTZ", 32), ("FFMA2", 64), ("HMMA.1688.F32.TF32", 1024), ("HMMA.1684.F32.TF32", 512),
        ("HGMMA.64x64x8.F32.TF32", 8192), ("HGMMA.64x16x8.F32.TF32", 2048), ("IMAD", 0), ("FADD", 0), ("LDGSTS.E.128", 0),
    ],
)  # fmt: skip
def test_products_of_an_instruction(name: str, macs: int) -> None:
    assert machine_code.macs(name) == macs


def test_scaling_beside_tensor_cores_is_no_product_and_what_no_name_tells_is_not_counted() -> None:
    moved = NESTED.replace("LDS.128 R4, [R9]", "HFMA2.MMA R1, -RZ, RZ, 0, 0")  # a constant by another name
    assert machine_code.busiest_loop(moved) == Loop(instructions=4, macs=64)
    mixed = NESTED.replace("FFMA R3, R6, R7, R3", "HMMA.1688.F32.TF32 R4, R8, R10, R4")
    assert machine_code.busiest_loop(mixed) == Loop(instructions=4, macs=1024)
    assert machine_code.busiest_loop(mixed.replace("HMMA.1688.F32.TF32", "UTCHMMA")) == Loop()


def test_the_loop_of_a_real_program() -> None:
    """SOC's step, 128 × 64 outputs, 16 channels at a time by 8 warps: two HGMMA compute a warp's share of the products."""
    loop = machine_code.busiest_loop((CODE / "soc_step_tall_tf32_sm90.sass").read_text())
    assert loop == Loop(instructions=141, macs=128 * 64 * 16 // 8)
    ceiling = roofline.GPUS["H100"].program_flops_per_s("tf32", loop.instructions, loop.macs)
    assert ceiling == pytest.approx(4 * 132 * 1.98e9 * 2 * 16384 / 141, rel=1e-3)


def test_ceilings_by_hand() -> None:
    h100, a100 = roofline.GPUS["H100"], roofline.GPUS["A100"]
    assert h100.issues_per_s == pytest.approx(132 * 4 * 1.98e9, rel=1e-3)
    assert a100.issues_per_s == pytest.approx(108 * 4 * 1.41e9, rel=1e-3)
    assert h100.program_flops_per_s("ieee", 2, 32) == pytest.approx(h100.float32_flops_per_s / 2)
    assert h100.program_flops_per_s("ieee", 1, 32) == pytest.approx(h100.float32_flops_per_s)
    # A scheduler of an A100 takes two cycles for a warp's FFMA: another instruction fits into the second one.
    assert a100.program_flops_per_s("ieee", 2, 32) == pytest.approx(a100.float32_flops_per_s)
    assert h100.program_flops_per_s("tf32x3", 300, 3 * 8192) == h100.program_flops_per_s("tf32", 300, 8192)
    assert h100.program_flops_per_s("tf32", 1, 8192) == h100.tf32_flops_per_s
    assert h100.program_flops_per_s("tf32", 0, 0) is None
