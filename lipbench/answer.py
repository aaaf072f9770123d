"""The result of a verb: a data frame, a readable version of it, and remarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    undecided: bool = False
    """whether a check could tell nothing, because the machine was too noisy or the rounds too few: exit code 4, if nothing
    failed"""
    tracebacks: tuple[str, ...] = ()
    """of the exceptions that external layers raised"""

    def plain(self) -> dict[str, Any]:
        """The answer as JSON-ready values, from which `joined` makes an answer."""
        return {
            "frame": _plain(self.frame), "readable": _plain(self.frame if self.readable is None else self.readable),
            "remarks": list(self.remarks), "problems": list(self.problems), "failed": self.failed,
            "tracebacks": list(self.tracebacks),
        }  # fmt: skip


def joined(parts: Sequence[Mapping[str, Any]]) -> Answer:
    """One answer with the rows, remarks and problems of several, each in the form of `Answer.plain`.

    Raises `ValueError`, `TypeError` or `KeyError` for anything else, which an external layer may have written.
    """
    frame, readable = (_frame([part[name] for part in parts]) for name in ("frame", "readable"))
    remarks, problems, tracebacks = (
        tuple(str(one) for part in parts for one in part[name]) for name in ("remarks", "problems", "tracebacks")
    )
    return Answer(frame, readable, remarks, problems, any(part["failed"] for part in parts), tracebacks=tracebacks)


def _plain(frame: pd.DataFrame) -> dict[str, Any]:
    rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    return {"columns": list(map(str, frame.columns)), "rows": rows}


def _frame(parts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = dict.fromkeys(str(column) for part in parts for column in part["columns"])
    rows = [dict(zip(map(str, part["columns"]), row, strict=True)) for part in parts for row in part["rows"]]
    return pd.DataFrame(rows, columns=list(columns))
