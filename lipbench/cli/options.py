"""Options of the command line: named choices, comma-separated lists, bounded numbers, and options that several verbs share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from lipbench import errors, settings
from lipbench.bounds import LARGEST, bytes_of, require_choice
from lipbench.cases import AUTOCAST, DTYPES, LEAN, PAPER, PRESETS, TRITON, WIDTHS
from lipbench.cli.completion import Known, in_list, layers, nothing, one_of, these


class DeviceName(StrEnum):
    """A device; `auto` is CUDA where available."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PrecisionName(StrEnum):
    """A precision for certificates. tf32 is missing, since no tolerance holds for it."""

    ieee = "ieee"
    tf32x3 = "tf32x3"


class PredictedDevice(StrEnum):
    """The device whose memory is predicted."""

    cpu = "cpu"
    cuda = "cuda"


class Freshness(StrEnum):
    """How the fresh process of a round is created."""

    fork = "fork"
    start = "start"


class FormatName(StrEnum):
    """Output formats."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"
    markdown = "markdown"
    latex = "latex"


class Names(tuple[str, ...]):
    """Distinct names from a comma-separated list."""


class Numbers(tuple[int, ...]):
    """Distinct numbers from a comma-separated list."""


class Switches(tuple[bool, ...]):
    """Distinct values of a condition that is off or on, from a comma-separated list."""


def names(option: str, text: str, known: Known = nothing) -> Any:
    """An option of type `Names` that takes comma-separated names, and completes those that are known.

    It raises `LipbenchError` for anything else.
    """

    def parse(given: str) -> Names:
        return Names(split(option, given, str, known))

    return typer.Option(option, parser=parse, metavar="LIST", help=text, autocompletion=in_list(known))


def numbers(option: str, text: str) -> Any:
    """An option of type `Numbers` that takes comma-separated integers. It raises `LipbenchError` for anything else."""

    def parse(given: str) -> Numbers:
        found = Numbers(split(option, given, int))
        largest = LARGEST[option.removeprefix("--").replace("-", "_")]
        if found and max(found) > largest:
            raise errors.too_large(option, max(found), largest)
        return found

    return typer.Option(option, parser=parse, metavar="LIST", help=text)


def switches(option: str, text: str) -> Any:
    """An option of type `Switches` that takes off, on or both with a comma. It raises `LipbenchError` for anything else."""
    known = these("off", "on")

    def parse(given: str) -> Switches:
        found = tuple(split(option, given, str, known))
        for word in found:
            require_choice(option, word, tuple(known()))
        return Switches(word == "on" for word in found)

    return typer.Option(option, parser=parse, metavar="LIST", help=text, autocompletion=in_list(known))


Value = TypeVar("Value", int, str)


def split(option: str, text: str, kind: type[Value], known: Known = nothing) -> Iterable[Value]:
    """The distinct values of a comma-separated list. Raises `LipbenchError` for anything else, naming the `known` values."""
    parts = [part.strip() for part in _parts(text)]
    if not all(parts):
        raise errors.empty_in_list(option, text, known())
    try:
        return dict.fromkeys(kind(part) for part in parts)
    except ValueError:
        raise errors.not_in_list(option, text) from None


def _parts(text: str) -> list[str]:
    """What stands between the commas that are in no brackets: a name may end in settings, as in `module:Layer(a=1, b=2)`."""
    found, depth = [""], 0
    for letter in text:
        depth = max(0, depth + (letter == "(") - (letter == ")"))
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


def whole(option: str, metavar: str, text: str, kind: str, least: int = 1) -> Any:
    """An option that takes an integer from `least` to `bounds.LARGEST[kind]`. It raises `LipbenchError` for anything else."""

    def parse(given: str | int) -> int:
        given, largest = str(given), LARGEST[kind]  # Typer also parses defaults
        if not given.isdecimal() or (len(given) < 100 and int(given) < least):
            raise errors.not_positive(option, given)
        if len(given) >= 100 or int(given) > largest:
            raise errors.too_large(option, given[:100], largest)
        return int(given)

    return typer.Option(option, parser=parse, metavar=metavar, help=text)


def size(option: str, text: str) -> Any:
    """An option that takes a size in memory, such as 24GB. It raises `LipbenchError` for anything else."""

    def parse(given: str | int) -> int:
        return bytes_of(option, str(given))

    return typer.Option(option, parser=parse, metavar="SIZE", help=text)


def real(option: str, metavar: str, text: str) -> Any:
    """An option that takes a number, which is checked where it is used. It raises `LipbenchError` for anything else."""

    def parse(given: str | float) -> float:
        try:
            return float(given)  # Typer also parses defaults
        except ValueError:
            raise errors.no_number(option, given) from None

    return typer.Option(option, parser=parse, metavar=metavar, help=text)


def seconds(option: str, text: str) -> Any:
    """An option that takes a time greater than 0. It raises `LipbenchError` for anything else."""

    def parse(given: str) -> float:
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise errors.not_positive_number(option, repr(given))
        if value > LARGEST["seconds"]:
            raise errors.too_large(option, given, LARGEST["seconds"])
        return value

    return typer.Option(option, parser=parse, metavar="S", help=text)


def given_settings(given: list[str] | None) -> str:
    """The text of all `--with` options. Raises `LipbenchError` for what cannot be read."""
    return settings.joined(*(given or ()))


def path(option: str, metavar: str, text: str, *short: str) -> Any:
    """An option that takes a path. It raises `LipbenchError` for an empty one, which would mean the current directory."""

    def parse(given: str) -> Path:
        if not given:
            raise errors.empty_path(option)
        return Path(given)

    return typer.Option(option, *short, parser=parse, metavar=metavar, help=text)


def share(option: str, text: str) -> Any:
    """An option that takes a share such as 5%, up to 100 %, as a factor. It raises `LipbenchError` for anything else."""

    def parse(given: str) -> float:
        try:
            value = float(given.removesuffix("%")) / 100
        except ValueError:
            value = math.nan
        if not (given.endswith("%") and 0 < value <= 1):
            raise errors.not_a_share(option, given)
        return value

    return typer.Option(option, parser=parse, metavar="P%", help=text)


# ---------------------------------------------------------------------------------------------- options that several verbs have

PredictedPrecision = Annotated[
    Names | None, names("--precision", "ieee, bf16, fp16 (autocast).  [default: ieee]", these("ieee", *AUTOCAST))
]
PresetName = Annotated[
    str | None, typer.Option(help="Shapes: quick, paper or scaling.  [default: quick]", autocompletion=one_of(these(*PRESETS)))
]
LAYERS_HELP = "Methods, external layers as package.module:name or file.py:name, or peers, with commas."
NETWORKS_HELP = "Sizes of the paper's ConvNet, of XS,S,M,L, or external networks as package.module:name or file.py:name."
MethodList = Annotated[Names | None, names("--method", LAYERS_HELP, layers)]
ImplementationList = Annotated[
    Names | None, names("--implementation", "Implementations, with commas.  [default: paper]", these(PAPER, LEAN, TRITON))
]
ChannelList = Annotated[Numbers | None, numbers("--channels", "Channels, with commas, in place of the preset's.")]
ImageSizeList = Annotated[Numbers | None, numbers("--image-size", "Heights of square images, with commas.")]
KernelSizeList = Annotated[Numbers | None, numbers("--kernel-size", "Odd kernel sizes, with commas.")]
BatchSizeList = Annotated[Numbers | None, numbers("--batch-size", "Batch sizes, with commas.")]
NetworkList = Annotated[Names | None, names("--network", NETWORKS_HELP, these(*WIDTHS))]
Settings = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="NAME=VALUE", help="Further arguments of external layers, with commas or repeated."),
]
Claim = Annotated[float | None, real("--lipschitz", "L", "The constant that external layers claim.  [default: 1]")]
DtypeList = Annotated[Names | None, names("--dtype", "float32, float64 or both.  [default: float32]", these(*DTYPES))]
RecomputeList = Annotated[
    Switches | None,
    switches("--recompute", "off, on or both: layers computed again in the backward pass, to save memory.  [default: off]"),
]
AllowList = Annotated[
    Names | None, names("--allow", "External layers and networks of a stored run whose code may be run, with commas.")
]
FailOn = Annotated[
    Names | None,
    names("--fail-on", "Of slower:5%,memory:1%: exit code 3 for times or peaks that grew by more than that."),
]
RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run directory, or pytest-benchmark's JSON: a file, or a folder of files."),
]
Format = Annotated[
    FormatName | None,
    typer.Option(help="csv, json and parquet are unrounded.  [default: by the extension of --output, or table]"),
]
Output = Annotated[
    Path | None,
    path("--output", "FILE", "File to write; .txt, .csv, .json, .parquet, .md or .tex sets the format.", "-o"),
]
APART_HELP = "Seconds for one answer about an external layer, which its own process gives.  [default: 300]"
Timeout = Annotated[float | None, seconds("--timeout", APART_HELP)]
Traceback = Annotated[bool, typer.Option("--traceback", help="Also print the tracebacks of external layers.")]
