"""The verb `kernels`: resources of the machine code of every Triton kernel in every layout, and its place on a roofline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pandas as pd

from lipbench import errors
from lipbench.cores import usable_cores

if TYPE_CHECKING:
    from lipbench_kernels.launching import Kernel
    from lipbench_kernels.resources import Resources

COLUMNS = (
    "kernel", "config", "precision", "shape", "architecture", "warps", "stages", "registers", "stack_bytes", "shared_bytes",
    "spills", "ships", "loop_instructions", "loop_macs", "sizes", "flops_per_byte", "gpu", "ridge_flops_per_byte", "bound",
    "machine_tflops", "program_tflops",
)  # fmt: skip
LEGEND = (
    "registers and stack: per thread; shared: per program; spills: instructions that use the stack.",
    "FLOP/B: of the kernel at the sizes named; ridge: FLOP/B at which that GPU's arithmetic takes as long as its memory.",
    "loop: instructions that a warp issues per iteration of its busiest loop, and the multiply-accumulates that they do.",
    "peak: TFLOP/s of the GPU; program: upper bound for this loop; empty where the code does not determine it.",
)
SUMMARY_LEGEND = (
    "Each number is the largest of all programs of the kernel: registers and stack per thread, shared memory per program,",
    "instructions that use the stack. worst program: the one with the largest stack, and of these the most registers.",
    "FLOP/B: of the kernel at the sizes named; bound: what limits it on the GPUs of these architectures, by their rooflines.",
)


def rows(
    architectures: Sequence[str] | None = None, tell: Callable[[int, int, str], None] = lambda done, total, what: None
) -> pd.DataFrame:
    """One row, in `COLUMNS`, per kernel, configuration, precision and architecture; by default all `ARCHITECTURES`.

    `tell` is called before each program, as by `resources.measure_all`. Needs triton but no GPU. Raises `LipbenchError` where
    triton is missing, runs its interpreter, or does not know an architecture.
    """
    if find_spec("triton") is None:
        raise errors.no_triton()
    from lipbench_kernels import catalogue, resources

    variants = [(kernel, variant) for kernel in catalogue.KERNELS for variant in kernel.variants()]
    chosen = tuple(architectures or resources.ARCHITECTURES)
    try:
        found = resources.measure_all([variant for _, variant in variants], chosen, usable_cores(), tell)
    except resources.CannotCompileError as error:
        raise errors.cannot_compile(str(error)) from error
    owners = [kernel for kernel, _ in variants for _ in chosen]
    return pd.DataFrame([_row(kernel, one) for kernel, one in zip(owners, found)], columns=list(COLUMNS))


def _row(kernel: Kernel, found: Resources) -> tuple[object, ...]:
    from lipbench_kernels import roofline

    variant, work, gpu = found.variant, kernel.work(**kernel.example), roofline.find(found.architecture)
    sizes = ", ".join(f"{name} = {value}" for name, value in kernel.example.items())
    ridge = gpu.ridge(variant.precision) if gpu else None
    bound = roofline.bound(work, gpu, variant.precision) if gpu else None
    program = gpu.program_flops_per_s(variant.precision, found.loop_instructions, found.loop_macs) if gpu else None
    return (
        kernel.name, variant.config, variant.precision, variant.shape, found.architecture, variant.warps, variant.stages,
        found.registers, found.stack_bytes, found.shared_bytes, found.spills, found.ships, found.loop_instructions,
        found.loop_macs, sizes, work.intensity, gpu.name if gpu else None, ridge, bound,
        gpu.flops_per_s(variant.precision) / 1e12 if gpu else None, program / 1e12 if program else None,
    )  # fmt: skip


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for a terminal, without the sizes, which `remarks` gives once per kernel."""
    table = frame.drop(columns=["sizes", "ships"])
    table["shape"] = table["shape"].replace("", "any")
    table["flops_per_byte"] = [_rounded(value) for value in table["flops_per_byte"]]
    for column in ("ridge_flops_per_byte", "machine_tflops", "program_tflops"):
        table[column] = [_rounded(value) for value in table[column]]
    table["loop_instructions"] = [f"{row.loop_instructions}: {row.loop_macs}" for row in table.itertuples()]
    table["gpu"], table["bound"] = table["gpu"].fillna(""), table["bound"].fillna("")
    return table.drop(columns="loop_macs").rename(columns={
        "loop_instructions": "loop", "machine_tflops": "peak", "program_tflops": "program", "stack_bytes": "stack B",
        "shared_bytes": "shared B", "flops_per_byte": "FLOP/B", "ridge_flops_per_byte": "ridge",
    })  # fmt: skip


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per kernel for a terminal: the most that one of its programs takes, and the program with the largest stack.

    Among equal stacks it is the program with the most registers.
    """
    return pd.DataFrame([_summed(str(kernel), own) for kernel, own in frame.groupby("kernel", sort=False)])


def _summed(kernel: str, programs: pd.DataFrame) -> dict[str, object]:
    worst = programs.sort_values(["stack_bytes", "registers"], kind="stable").iloc[-1]
    ships, bounds = int(programs["ships"].sum()), dict.fromkeys(programs["bound"].dropna())
    return {
        "kernel": kernel, "programs": len(programs), "can ship": "all" if ships == len(programs) else str(ships),
        "registers": programs["registers"].max(), "stack B": programs["stack_bytes"].max(),
        "shared B": programs["shared_bytes"].max(), "spills": programs["spills"].max(),
        "FLOP/B": _rounded(programs["flops_per_byte"].iloc[0]), "bound": " or ".join(bounds), "worst program": _name(worst),
    }  # fmt: skip


def _rounded(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}"


def remarks(frame: pd.DataFrame, *, every: bool) -> Iterator[str]:
    """Lines below the table: the example sizes of each kernel, programs that cannot ship, and programs with a small stack.

    Below a `summary`, the latter are only counted, and the columns that it lacks are not explained.
    """
    for kernel, sizes in frame.groupby("kernel", sort=False)["sizes"].first().items():
        yield f"{kernel}: {sizes}"
    yield ""
    yield from LEGEND if every else SUMMARY_LEGEND
    from lipbench_kernels.resources import MOST_STACK_BYTES

    refused, kernels = frame[~frame["ships"]], frame["kernel"].nunique()
    remarked = frame[frame["ships"] & (frame["stack_bytes"] > 0)]
    programs = f"{len(frame)} programs of {kernels} kernel{'s' if kernels > 1 else ''}, by triton {_compiler()}"
    more = f"more than {MOST_STACK_BYTES} bytes of stack"
    yield f"{programs}; {len(refused) or 'none'} of them with {more}, or with more shared memory than available."
    yield from (_place(row) for _, row in refused.iterrows())
    if len(remarked):
        most = remarked["stack_bytes"].max()
        yield f"{len(remarked)} with a stack of up to {most} bytes, which ships: same results, perhaps slightly slower."
        if every:
            yield from (_place(row) for _, row in remarked.iterrows())
    if not every:
        yield "Each program is printed by --all."


def _place(row: pd.Series) -> str:
    return f"{row.kernel} {_name(row)}: {row.stack_bytes} bytes of stack, {row.shared_bytes} shared"


def _name(row: pd.Series) -> str:
    """What tells a program from the others of its kernel."""
    return " ".join(filter(None, (row["config"], row["precision"], row["shape"], row["architecture"])))


def _compiler() -> str:
    """The triton version that compiled, with a note if it is not the tested version."""
    import triton
    from lipbench_kernels.resources import TESTED_TRITON

    tested = triton.__version__ == TESTED_TRITON
    return str(triton.__version__) if tested else f"{triton.__version__}, which is not the tested {TESTED_TRITON}"
