"""The speed limit in a kernel's machine code: the instructions of its busiest loop, and their multiply-accumulates.

A multiprocessor has four schedulers, each of which issues one instruction of one warp in a cycle. A program whose loop issues I
instructions of a warp for M multiply-accumulates therefore does at most `2 M / I` FLOPs for each issue slot, whatever the peak
of the GPU; address computations and loads take slots too. Read from the text of `cuobjdump --dump-sass`:

* `FFMA`: one product in each of 32 threads; `FFMA2`: two.
* `HMMA.1688`: 16 · 8 · 8 products of a warp, as its name says; `HGMMA.64x64x8`: 64 · 64 · 8 of four warps together.
* `UTCHMMA` (sm_100): one thread begins the products of a whole program; its name does not give their size. Not counted.

Source of the schedulers: NVIDIA's architecture whitepapers of A100, H100 and Blackwell ("four processing blocks", one warp
scheduler each). How long an instruction waits is not modelled, so the result is a ceiling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WARP_THREADS = 32
GROUP_WARPS = 4
"""number of warps that execute an HGMMA together"""

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;\n]*);", re.MULTILINE)
_TARGET = re.compile(r"\b0x([0-9a-f]+)\s*$")
_SHAPE = re.compile(r"^HMMA\.(\d{4,5})\b|^HGMMA\.(?:SP\.)?(\d+)x(\d+)x(\d+)\b")
_FIGURES = {"1684": 16 * 8 * 4, "1688": 16 * 8 * 8, "16816": 16 * 8 * 16}


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    """with its modifiers: 'LDGSTS.E.BYPASS.128'"""
    target: int | None
    """the target of a branch"""


@dataclass(frozen=True)
class Loop:
    """One iteration of a loop, executed by one warp."""

    instructions: int = 0
    macs: int = 0


def instructions(text: str) -> list[Instruction]:
    """The instructions of the one kernel that `cuobjdump --dump-sass` printed."""
    found = []
    for match in _INSTRUCTION.finditer(text):
        address, name, operands = match.groups()
        target = _TARGET.search(operands) if name.partition(".")[0] == "BRA" else None
        found.append(Instruction(int(address, 16), name, int(target[1], 16) if target else None))
    return found


def count_spills(text: str) -> int:
    """Number of loads from and stores to local memory."""
    return sum(one.name.partition(".")[0] in {"LDL", "STL"} for one in instructions(text))


def macs(name: str) -> int:
    """Multiply-accumulates of a warp by an instruction of that name; 0 if it makes no products."""
    if name.partition(".")[0] in {"FFMA", "FFMA2"}:
        return WARP_THREADS * (2 if name.startswith("FFMA2") else 1)
    shape = _SHAPE.match(name)
    if shape is None:
        return 0
    if shape[1]:
        return _FIGURES[shape[1]]
    return int(shape[2]) * int(shape[3]) * int(shape[4]) // GROUP_WARPS


def busiest_loop(text: str) -> Loop:
    """The innermost loop with the most products, among loops that contain no other loop with products.

    Empty where no loop has products, or where a name does not give the size of its products. A loop is the code between a
    backward branch and its target. Code that a branch inside the loop may skip counts as issued.
    """
    code = instructions(text)
    if any(one.name.startswith("UTC") and "MMA" in one.name for one in code):
        return Loop()
    spans = sorted(
        ((one.target, one.address) for one in code if one.target is not None and one.target < one.address),
        key=lambda span: span[1] - span[0],
    )
    innermost: list[tuple[int, int]] = []
    best = Loop()
    for first, last in spans:
        body = [one.name for one in code if first <= one.address <= last]
        on_tensor_cores = sum(macs(name) for name in body if _SHAPE.match(name))  # beside which FFMA scales and adds
        products = on_tensor_cores or sum(macs(name) for name in body)
        if products and not any(first <= inner and end <= last for inner, end in innermost):
            innermost.append((first, last))
            best = max(best, Loop(len(body), products), key=lambda loop: loop.macs)
    return best
