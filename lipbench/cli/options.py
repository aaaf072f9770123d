"""What options of the command line take: names of which one is chosen, lists with commas, numbers with a least value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TypeVar

import typer

from lipbench import errors


class DeviceName(StrEnum):
    """`auto` is CUDA where there is some."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class TheoryFormat(StrEnum):
    """How `theory` prints."""

    table = "table"
    csv = "csv"


class PrecisionName(StrEnum):
    """What a certificate may be asked for; tf32 keeps no tolerance."""

    ieee = "ieee"
    tf32x3 = "tf32x3"


class RowsFormat(StrEnum):
    """How `verify`, `complexity` and `kernels` print."""

    table = "table"
    json = "json"


class PredictedDevice(StrEnum):
    """Whose allocator is predicted."""

    cpu = "cpu"
    cuda = "cuda"


class TableFormat(StrEnum):
    """How `predict` prints."""

    table = "table"
    csv = "csv"
    json = "json"


class Freshness(StrEnum):
    """How the fresh process of a round is made."""

    fork = "fork"
    start = "start"


class ExportFormat(StrEnum):
    """What `export` writes."""

    csv = "csv"
    parquet = "parquet"
    json = "json"


class Names(tuple[str, ...]):
    """Of a list with commas, each once."""


class Numbers(tuple[int, ...]):
    """Of a list with commas, each once."""


def names(option: str, text: str) -> Any:
    """An option, `Names`, that takes names with commas. It raises `LipbenchError` for what is no list."""

    def parse(given: str) -> Names:
        return Names(split(option, given, str))

    return typer.Option(option, parser=parse, metavar="LIST", help=text)


def numbers(option: str, text: str) -> Any:
    """An option, `Numbers`, that takes whole numbers with commas. It raises `LipbenchError` for anything else."""

    def parse(given: str) -> Numbers:
        return Numbers(split(option, given, int))

    return typer.Option(option, parser=parse, metavar="LIST", help=text)


Value = TypeVar("Value", int, str)


def split(option: str, text: str, kind: type[Value]) -> Iterable[Value]:
    """The values of a list with commas, each once. Raises `LipbenchError` for what is no list."""
    parts = [part.strip() for part in text.split(",")]
    try:
        if not all(parts):
            raise ValueError
        return dict.fromkeys(kind(part) for part in parts)
    except ValueError:
        raise errors.not_in_list(option, text, "whole numbers" if kind is int else "names") from None


def whole(option: str, metavar: str, text: str) -> Any:
    """An option that takes a whole number of at least 1. It raises `LipbenchError` for anything else."""

    def parse(given: str) -> int:
        if not given.isdecimal() or int(given) < 1:
            raise errors.not_positive(option, given)
        return int(given)

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
        return value

    return typer.Option(option, parser=parse, metavar="S", help=text)
