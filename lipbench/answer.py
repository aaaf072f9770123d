"""The result of a verb: a data frame, a readable version of it, and remarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Answer:
    """The result of a verb, independent of the format in which it is printed or stored."""

    frame: pd.DataFrame
    """tidy and unrounded values for programs: the content of csv, json and parquet"""
    readable: pd.DataFrame | None = None
    """the same for people: rounded, with units, as text; None where `frame` needs no such version"""
    remarks: tuple[str, ...] = ()
    """lines to print below the readable table; "" is an empty line"""
    problems: tuple[str, ...] = ()
    """one line for each result that is missing from the frame"""
    failed: bool = False
    """whether a requested result failed, or a check did not pass: exit code 3 on the command line"""
