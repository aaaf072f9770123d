"""The command line. A verb imports what it needs when it runs, so that `lipbench --help` is quick.

Exit codes: 0 all is well, 2 wrong use (one line on stderr), 3 some case failed; 130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lipbench import __version__, errors
from lipbench.cli.options import (
    DeviceName,
    ExportFormat,
    Freshness,
    Names,
    Numbers,
    PrecisionName,
    PredictedDevice,
    RowsFormat,
    TableFormat,
    TheoryFormat,
    names,
    numbers,
    seconds,
    split,
    whole,
)

FAILED, WRONG_USE, INTERRUPTED = 3, 2, 130
_ClickException: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Of Typer's own copy of Click, or of Click itself where Typer is older."""

app = typer.Typer(
    help="Profile 1-Lipschitz layers: time, memory and multiply-accumulates, beside theory.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, by default the process's, and exit. Wrong use becomes one line on stderr and exit code 2."""
    command: Any = typer.main.get_command(app)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = command.main(given or ["--help"], "lipbench", standalone_mode=False)
    except _ClickException as error:
        context = getattr(error, "ctx", None)
        _fail(f"{error.format_message().rstrip('.')}; see {context.command_path if context else 'lipbench'} --help")
    except errors.LipbenchError as error:
        summary, _, code_to_write = str(error).partition("\n")
        _fail(summary, code_to_write)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    if code == INTERRUPTED:  # which is also what newer versions of Typer make of Ctrl-C
        print("lipbench: interrupted", file=sys.stderr)
    raise SystemExit(code or 0)


def _fail(message: str, code_to_write: str = "") -> None:
    print(f"lipbench: {' '.join(message.split())}", file=sys.stderr)
    if code_to_write:
        print(code_to_write.rstrip(), file=sys.stderr)
    raise SystemExit(WRONG_USE) from None


# Options that several verbs have.
LAYERS_HELP = "Methods, or external layers as package.module:name or file.py:name, with commas."
NETWORKS_HELP = "Sizes of the paper's ConvNet, of XS,S,M,L, or external networks as package.module:name or file.py:name."
PresetName = Annotated[str | None, typer.Option(help="Shapes: quick or paper.  [default: quick]")]
MethodList = Annotated[Names | None, names("--method", LAYERS_HELP)]
ImplementationList = Annotated[Names | None, names("--implementation", "Implementations, with commas.  [default: paper]")]
ChannelList = Annotated[Numbers | None, numbers("--channels", "Channels, with commas, in place of the preset's.")]
ImageSizeList = Annotated[Numbers | None, numbers("--image-size", "Heights of the square images, with commas.")]
KernelSizeList = Annotated[Numbers | None, numbers("--kernel-size", "Odd kernel sizes, with commas.")]
BatchSizeList = Annotated[Numbers | None, numbers("--batch-size", "Batch sizes, with commas.")]
NetworkList = Annotated[
    Names | None,
    names("--network", NETWORKS_HELP),
]
DtypeList = Annotated[Names | None, names("--dtype", "float32, float64 or both.  [default: float32]")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _lipbench(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


# ----------------------------------------------------------------------------------------------------------- what there is


@app.command()
def methods() -> None:
    """List the methods, their sources and what they claim."""
    from lipbench.cli import terminal
    from lipbench.predict import table1

    terminal.print_table(table1.methods_table().rename(columns={"lipschitz": "claims 1-Lipschitz"}))


@app.command()
def theory(
    method: Annotated[Names | None, names("--method", "Methods, with commas; all if left out.")] = None,
    format: Annotated[TheoryFormat, typer.Option(help="csv has the layout of the published table.")] = TheoryFormat.table,
) -> None:
    """Print Table 1 of the paper (arXiv 2311.16833) and, beside it, the exact costs of this code."""
    from lipbench import registry
    from lipbench.cli import terminal
    from lipbench.predict import table1

    chosen = [registry.find(name).name for name in method or registry.methods()]
    table = table1.complexity_table()
    table = table[table["method"].isin(chosen)].copy()
    if format is TheoryFormat.csv:
        table1.published_layout(table).to_csv(sys.stdout, index=False)
        return
    for kind in ("published", "exact"):
        table[kind] = table[kind].map(table1.in_print)
    terminal.print_table(table[["title", "half", "quantity", "operations", "published", "exact"]])
    print("\nC = b s² c² k², M = b s² c, P = c² k²; batch b, channels c, image s × s, kernel k × k, iterations t.")
    print("published: leading terms, a complex number is one; exact: real MACs and elements of this code, in training.")


@app.command()
def kernels(
    arch: Annotated[Names | None, names("--arch", "Architectures, with commas.  [default: sm_80,sm_90,sm_100]")] = None,
    format: Annotated[RowsFormat, typer.Option(help="json has every figure unrounded.")] = RowsFormat.table,
) -> None:
    """Compile every Triton kernel without a GPU, and say what it takes of one; exit code 3 if one cannot ship."""
    from lipbench.cli import terminal
    from lipbench.predict import kernels as kernel_report

    rows = kernel_report.rows(arch)
    if format is RowsFormat.json:
        print(rows.to_json(orient="records", indent=1, force_ascii=False))
    else:
        terminal.print_table(kernel_report.readable(rows))
        for line in ("", *kernel_report.remarks(rows)):
            print(line)
    if not rows["ships"].all():
        raise typer.Exit(FAILED)


# ------------------------------------------------------------------------------------------------------------ certificates


@app.command()
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD|RUN|package.module:name|file.py:name]...", help="All methods if left out."),
    ] = None,
    method: MethodList = None,
    channels: Annotated[Numbers | None, numbers("--channels", "Channels, with commas.  [default: 16]")] = None,
    image_size: Annotated[Numbers | None, numbers("--image-size", "Heights of images, with commas.  [default: 8]")] = None,
    kernel_size: Annotated[Numbers | None, numbers("--kernel-size", "Odd kernel sizes, with commas.  [default: 1,3]")] = None,
    implementation: ImplementationList = None,
    precision: Annotated[PrecisionName, typer.Option(help="Of products in Triton kernels.")] = PrecisionName.ieee,
    format: Annotated[RowsFormat, typer.Option(help="json has singular values unrounded.")] = RowsFormat.table,
) -> None:
    """Find Lipschitz constants, on random weights and after 100 SGD steps; exit code 3 if one in evaluation is above 1."""
    from lipbench.cli import terminal
    from lipbench.run import verifying
    from lipbench.store import records

    runs = [Path(name) for name in what or () if Path(name).is_dir()]
    layers = [name for name in what or () if not Path(name).is_dir()] + list(method or ())
    shapes = verifying.Shapes(channels or (16,), image_size or (8,), kernel_size or (1, 3), implementation or ("paper",))
    chosen: list[Any] = [record.case.spec for run in runs for record in records.load_run(run).records]
    if layers or not runs:
        chosen += verifying.specs(layers or verifying.claiming_methods(shapes.implementations), shapes)
    rows = verifying.verify(dict.fromkeys(chosen), str(precision))
    if format is RowsFormat.json:
        print(rows.to_json(orient="records", indent=1))
    else:
        terminal.print_table(verifying.readable(rows))
        print(
            "\nσ: singular values, or the Lipschitz constant of a layer that is not linear; ≥: a lower bound, found by search."
        )
    if rows["verdict"].isin([verifying.VIOLATES, verifying.FAILED]).any():
        raise typer.Exit(FAILED)


@app.command()
def complexity(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help=LAYERS_HELP),
    ],
    channels: Annotated[Numbers | None, numbers("--channels", "Channels to count at, with commas.")] = None,
    image_size: ImageSizeList = None,
    kernel_size: KernelSizeList = None,
    batch_size: Annotated[Numbers | None, numbers("--batch-size", "Batch sizes, with commas, at least two.")] = None,
    format: Annotated[RowsFormat, typer.Option(help="json has every term and its exponents.")] = RowsFormat.table,
) -> None:
    """Count what any layer costs at a few sizes, and print the formulas: a row in the form of Table 1. Nothing is timed."""
    from lipbench.cli import terminal
    from lipbench.predict import complexity

    sizes = {"c": channels, "s": image_size, "k": kernel_size, "b": batch_size}
    rows = [row for one in split("NAME", name, str) for row in complexity.fit_layer(one, complexity.given(sizes))]
    if format is RowsFormat.json:
        print(json.dumps(complexity.as_json(rows), indent=1, ensure_ascii=False))
        return
    terminal.print_table(complexity.as_table(rows))
    for line in (*complexity.remarks(rows), "", *complexity.LEGEND):
        print(line)


@app.command()
def predict(
    preset: PresetName = None,
    method: MethodList = None,
    implementation: ImplementationList = None,
    channels: ChannelList = None,
    image_size: ImageSizeList = None,
    kernel_size: KernelSizeList = None,
    batch_size: BatchSizeList = None,
    network: NetworkList = None,
    dtype: DtypeList = None,
    device: Annotated[PredictedDevice, typer.Option(help="Whose memory; it need not be present.")] = PredictedDevice.cpu,
    memory: Annotated[int | None, whole("--memory", "BYTES", "What there is; adds a column that says what fits.")] = None,
    format: Annotated[TableFormat, typer.Option(help="csv and json are in bytes.")] = TableFormat.table,
) -> None:
    """Say how much memory training and inference will take, from shapes alone: nothing is computed. Does it fit?"""
    from lipbench.cli import terminal
    from lipbench.predict import memory as predict
    from lipbench.run.plan import Request, plan

    request = Request(preset, method, implementation, channels, image_size, kernel_size, batch_size, network, dtype)
    frame, problems = predict.table(plan(request, str(device)), memory)
    if format is TableFormat.csv:
        frame.to_csv(sys.stdout, index=False)
    elif format is TableFormat.json:
        print(frame.to_json(orient="records", indent=1))
    else:
        terminal.print_table(predict.readable(frame))
        print(f"\n{predict.NOTES[str(device)]}")
    _name_problems(problems)
    if problems:
        raise typer.Exit(FAILED)


# -------------------------------------------------------------------------------------------------------------- profiling


@app.command()
def profile(
    preset: PresetName = None,
    method: MethodList = None,
    implementation: ImplementationList = None,
    channels: ChannelList = None,
    image_size: ImageSizeList = None,
    kernel_size: KernelSizeList = None,
    batch_size: BatchSizeList = None,
    network: NetworkList = None,
    dtype: DtypeList = None,
    precision: Annotated[
        Names | None, names("--precision", "ieee, tf32 or tf32x3 (Triton kernels only), with commas.  [default: ieee]")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Each case by torch.compile too, beside uncompiled.")] = False,
    device: Annotated[DeviceName, typer.Option(help="Where to run; auto is a GPU if there is one.")] = DeviceName.auto,
    threads: Annotated[int | None, whole("--threads", "N", "CPU threads.  [default: all that it may use]")] = None,
    timeout: Annotated[float | None, seconds("--timeout", "Seconds for one round of a case.  [default: 300]")] = None,
    memory_limit: Annotated[int | None, whole("--memory-limit", "BYTES", "Address space; on a GPU, its memory.")] = None,
    rounds: Annotated[int | None, whole("--rounds", "N", "Fresh processes per case.  [default: the preset's]")] = None,
    phase_seconds: Annotated[float | None, seconds("--phase-seconds", "To sample a phase.  [default: the preset's]")] = None,
    deadline: Annotated[
        float | None, seconds("--deadline", "Begin nothing after so many seconds, and cut short what runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.  [default: a new one in runs/]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; finished cases stay.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --resume: failed cases once more.")] = False,
    measure: Annotated[
        Names | None, names("--measure", "Of time,memory,macs,certificate; with --resume, what is missing.  [default: all]")
    ] = None,
    fresh: Annotated[
        Freshness | None, typer.Option(help="How fresh processes are made: forked, in hundredths of a second, or started.")
    ] = None,
) -> None:
    """Measure methods over shapes, each case in fresh processes, and keep the records in a run directory."""
    from lipbench.cli import progress
    from lipbench.run import profiling
    from lipbench.run.plan import Request

    request = Request(
        preset, method, implementation, channels, image_size, kernel_size, batch_size, network, dtype, precision, threads,
        (False, True) if compile else None,
    )  # fmt: skip
    limits = profiling.LimitOptions(phase_seconds, timeout, memory_limit, rounds)
    options = profiling.Options(
        request, str(device), limits, deadline, out, resume, retry_failed, measure, None if fresh is None else str(fresh)
    )
    try:
        finished = profiling.profile(options, shlex.join(["lipbench", *sys.argv[1:]]), progress.shown)
    except profiling.InterruptedRunError as error:
        print(f"what was measured is stored; go on with lipbench profile --resume --out {error.directory}")
        raise
    print(finished.directory)
    print(progress.summary(finished.outcome))
    if finished.failed:
        raise typer.Exit(FAILED)


# ---------------------------------------------------------------------------------------------------------------- reading

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or a JSON file of pytest-benchmark.")]


@app.command()
def export(
    run: RunArgument,
    format: Annotated[ExportFormat, typer.Option(help="csv and json go to the terminal without -o.")] = ExportFormat.csv,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
) -> None:
    """Write one tidy row per case and phase, theory beside measurement."""
    from lipbench.cli import printing
    from lipbench.store import benchmark_json

    found = benchmark_json.load(run)
    printing.export(found, str(format), output)
    _name_problems(found.problems)


@app.command()
def report(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file.  [default: in the run directory]")] = None,
) -> None:
    """Write a report as one HTML file that needs nothing else, and print its path."""
    from lipbench.cli import printing
    from lipbench.store import benchmark_json

    found = benchmark_json.load(run)
    if sys.stderr.isatty():
        print("lipbench: counting on fake tensors and drawing, some seconds to a minute", file=sys.stderr)
    beside = run / "report.html" if run.is_dir() else run.with_suffix(".html")
    print(printing.report(found, output or beside))
    _name_problems(found.problems)


def _name_problems(problems: Sequence[str]) -> None:
    """Say on stderr what of a run is missing from what was just written, one line each."""
    for problem in problems:
        print(f"lipbench: {problem}", file=sys.stderr)


if __name__ == "__main__":
    main()
