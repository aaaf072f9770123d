"""The verb `profile`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lipbench import api, errors
from lipbench.cases import PRECISIONS
from lipbench.cli.completion import these
from lipbench.cli.options import (
    AllowList,
    BatchSizeList,
    ChannelList,
    Claim,
    DeviceName,
    DtypeList,
    FailOn,
    Freshness,
    ImageSizeList,
    ImplementationList,
    KernelSizeList,
    MethodList,
    Names,
    NetworkList,
    PresetName,
    RecomputeList,
    Settings,
    Traceback,
    given_settings,
    names,
    path,
    seconds,
    share,
    size,
    whole,
)
from lipbench.cli.printing import FAILED, Printer, print_tracebacks


def _measured() -> Iterable[str]:
    from lipbench.run.book import MEASURED

    return MEASURED


def profile(
    preset: PresetName = None,
    method: MethodList = None,
    implementation: ImplementationList = None,
    channels: ChannelList = None,
    image_size: ImageSizeList = None,
    kernel_size: KernelSizeList = None,
    batch_size: BatchSizeList = None,
    network: NetworkList = None,
    with_: Settings = None,
    lipschitz: Claim = None,
    dtype: DtypeList = None,
    precision: Annotated[
        Names | None,
        names(
            "--precision",
            "ieee, tf32, tf32x3 (Triton kernels only), bf16, fp16 (autocast).  [default: ieee]",
            these(*PRECISIONS),
        ),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Measure each case also with torch.compile.")] = False,
    exported: Annotated[
        bool, typer.Option("--exported", help="Measure inference also of external modules in their exported form.")
    ] = False,
    recompute: RecomputeList = None,
    device: Annotated[DeviceName, typer.Option(help="Where to run; auto is a GPU if there is one.")] = DeviceName.auto,
    threads: Annotated[int | None, whole("--threads", "N", "CPU threads.  [default: all usable cores]", "threads")] = None,
    timeout: Annotated[float | None, seconds("--timeout", "Seconds for one round of a case.  [default: 300]")] = None,
    memory_limit: Annotated[
        int | None, size("--memory-limit", "Limit of address space, such as 8GB; on a GPU, of its memory.")
    ] = None,
    rounds: Annotated[
        int | None, whole("--rounds", "N", "Fresh processes per case.  [default: the preset's]", "rounds")
    ] = None,
    phase_seconds: Annotated[
        float | None, seconds("--phase-seconds", "Sampling time of a phase.  [default: the preset's]")
    ] = None,
    deadline: Annotated[
        float | None, seconds("--deadline", "Stop after this many seconds; the running round is discarded.")
    ] = None,
    out: Annotated[Path | None, path("--out", "DIR", "The run directory.  [default: a new one in runs/]")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --out; finished cases are not measured again.")
    ] = False,
    allow: AllowList = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --resume: measure failed cases again.")] = False,
    retries: Annotated[
        int | None,
        whole("--retries", "N", "Repeat up to N contended rounds of a case.  [default: 2]", "rounds", least=0),
    ] = None,
    retry_contended: Annotated[
        bool, typer.Option("--retry-contended", help="With --resume: repeat rounds that are still contended, N more.")
    ] = False,
    target: Annotated[
        float | None, share("--target", "Add rounds until every 95 % interval is within ± this, as in 5%.")
    ] = None,
    measure: Annotated[
        Names | None,
        names("--measure", "Of time,memory,macs,certificate; with --resume, adds missing parts.  [default: all]", _measured),
    ] = None,
    fresh: Annotated[
        Freshness | None, typer.Option(help="How to create fresh processes: fork (hundredths of a second) or start.")
    ] = None,
    traceback: Traceback = False,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="PYTHON", help="Measure also the version of another interpreter, in turns; compare."),
    ] = None,
    against_ref: Annotated[
        str | None,
        typer.Option("--against-ref", metavar="REF", help="The same for another commit of the current git repository."),
    ] = None,
    fail_on: FailOn = None,
) -> None:
    """Measure methods over shapes, each case in fresh processes, and store the records in a run directory.

    With --against or --against-ref, two versions are measured in 11 alternating rounds (or --rounds), in OUT/base and OUT/head,
    and compared: SAME, FASTER, SLOWER or UNCLEAR.
    """
    from lipbench.cli import progress, versions
    from lipbench.run import profiling
    from lipbench.run.plan import Request, conditions

    request = Request(
        preset=preset,
        methods=method,
        implementations=implementation,
        channels=channels,
        image_sizes=image_size,
        kernel_sizes=kernel_size,
        batch_sizes=batch_size,
        networks=network,
        settings=given_settings(with_),
        claim=1.0 if lipschitz is None else lipschitz,
        conditions=conditions(
            dtype=dtype,
            precision=precision,
            threads=None if threads is None else (threads,),
            compile=(False, True) if compile else None,
            exported=(False, True) if exported else None,
            recompute=recompute,
        ),
    )
    limits = profiling.LimitOptions(phase_seconds, timeout, memory_limit, rounds)
    options = profiling.Options(
        request, str(device), limits, deadline, out, resume, retry_failed, measure,
        retries, retry_contended, target, None if fresh is None else str(fresh),
        allow or (),
    )  # fmt: skip
    if against is not None or against_ref is not None:
        versions.measure(options, sys.argv[2:], against, against_ref, fail_on or (), traceback=traceback)
        return
    if fail_on:
        raise errors.only_against()
    try:
        finished = profiling.profile(options, shlex.join(["lipbench", *sys.argv[1:]]), progress.shown)
    except profiling.InterruptedRunError as error:
        print(f"finished rounds are stored; continue with lipbench profile --resume --out {error.directory}")
        raise
    print(finished.directory)
    print(progress.summary(finished.outcome, finished.lacking))
    if any(record.rounds for record in finished.outcome.records):
        print()
        Printer(None, None).print(replace(api.load(finished.directory).summary(), problems=()))  # those were named above
    if traceback:
        print_tracebacks(text for record in finished.outcome.records for text in record.tracebacks)
    if target is not None:
        print(progress.reached(finished.outcome, target))
    if finished.failed:
        raise typer.Exit(FAILED)
