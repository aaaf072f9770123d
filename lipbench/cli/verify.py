"""The verb `verify`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipbench.answer import Answer
from lipbench.cli import waiting
from lipbench.cli.completion import in_list, layers
from lipbench.cli.options import (
    AllowList,
    Claim,
    Format,
    ImplementationList,
    MethodList,
    Numbers,
    Output,
    PrecisionName,
    Settings,
    Timeout,
    Traceback,
    given_settings,
    numbers,
    split,
)
from lipbench.cli.printing import Printer

if TYPE_CHECKING:
    from lipbench.run.verifying import Shapes

REMARKS = ("σ: singular values, or the Lipschitz constant of a layer that is not linear; ≥: a lower bound, found by search.",)


def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[METHOD|RUN|package.module:name|file.py:name]...",
            help="Apart or with commas; all methods if left out.",
            autocompletion=in_list(layers),
        ),
    ] = None,
    method: MethodList = None,
    with_: Settings = None,
    lipschitz: Claim = None,
    channels: Annotated[Numbers | None, numbers("--channels", "Channels, with commas.  [default: 16]")] = None,
    image_size: Annotated[Numbers | None, numbers("--image-size", "Heights of images, with commas.  [default: 8]")] = None,
    kernel_size: Annotated[Numbers | None, numbers("--kernel-size", "Odd kernel sizes, with commas.  [default: 1,3]")] = None,
    implementation: ImplementationList = None,
    precision: Annotated[PrecisionName, typer.Option(help="Precision of products in Triton kernels.")] = PrecisionName.ieee,
    timeout: Timeout = None,
    traceback: Traceback = False,
    allow: AllowList = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Compute Lipschitz constants for random weights and after 100 SGD steps; exit code 3 if one in evaluation exceeds 1."""
    printer = Printer(format, output, traceback=traceback)
    from lipbench.run.verifying import Shapes

    shapes = Shapes(channels or (16,), image_size or (8,), kernel_size or (1, 3), implementation or ("paper",),
                    given_settings(with_), 1.0 if lipschitz is None else lipschitz)  # fmt: skip
    with waiting.of("certifying") as tell:
        found = answer([*_listed(what or ()), *(method or ())], shapes, str(precision), timeout, allow or (), tell)
    printer.print(found)


def _listed(what: Sequence[str]) -> Iterator[str]:
    """The runs and layers that were named, apart or with commas; a folder's name may contain commas."""
    for word in what:
        yield from (word,) if Path(word).exists() else split("METHOD", word, str, layers)


def answer(
    names: Sequence[str],
    shapes: Shapes,
    precision: str,
    timeout_s: float | None = None,
    allow: Sequence[str] = (),
    tell: waiting.Tell = lambda done, total, what: None,
) -> Answer:
    """One row per bound of each certificate, for the layers in run directories and for methods at all shapes.

    Without names, certifies all methods that claim to be 1-Lipschitz. Fails if a constant is too large or a layer raises.
    Raises `LipbenchError` for a name that is neither a run nor a layer, and for external layers of a run that are neither among
    `names` nor in `allow`.
    """
    from lipbench import external
    from lipbench.cases import Spec
    from lipbench.run import verifying
    from lipbench.run.consent import require_consent
    from lipbench.store import records

    runs = [Path(name) for name in names if Path(name).is_dir()]
    layers = [name for name in names if not Path(name).is_dir()]
    specs: list[Spec] = [record.case.spec for run in runs for record in records.load_run(run).records]
    if not layers:
        external.check_options((), shapes.settings, shapes.claim)
    require_consent(specs, [*layers, *allow])
    if layers or not runs:
        specs += verifying.specs(layers or verifying.claiming_methods(shapes.implementations), shapes)
    rows = verifying.verify(dict.fromkeys(specs), precision, timeout_s, tell)
    failed = bool(rows["verdict"].isin([verifying.VIOLATES, verifying.FAILED]).any())
    return Answer(rows, verifying.readable(rows), REMARKS, failed=failed, tracebacks=tuple(filter(None, rows["traceback"])))
