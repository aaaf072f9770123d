"""What a verb gives: a frame, and what people and programs need beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Answer:
    """The result of a verb, independent of the format in which it is printed or stored."""

    frame: pd.DataFrame
    """tidy and unrounded, for programs: what csv, json and parquet contain"""
    readable: pd.DataFrame | None = None
    """the same for people: rounded, with units, as text; None where `frame` needs no such version"""
    remarks: tuple[str, ...] = ()
    """lines to print below the readable table; "" is an empty line"""
    problems: tuple[str, ...] = ()
    """one line for each thing that is missing from the frame"""
    failed: bool = False
    """whether something that was asked for failed or does not hold: exit code 3 on the command line"""
