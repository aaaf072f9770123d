"""Encodes an answer as a table, csv, json, parquet, markdown or latex.

csv, json and parquet contain the unrounded frame. The others, for people, contain the readable table and remarks below it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pandas as pd

from lipbench.answer import Answer
from lipbench.cli import terminal

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>|~$&#"})
_LATEX = str.maketrans({
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "[": "{[}", "*": "{*}",
    **{raised: f"\\textsuperscript{{{digit}}}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "≥": r"$\geq$", "≤": r"$\leq$", "≈": r"$\approx$",
    "→": r"$\to$", "∞": r"$\infty$", "√": r"$\surd$", "‖": r"$\|$", "…": r"\dots{}",
    "σ": r"$\sigma$", "μ": r"$\mu$", "λ": r"$\lambda$", "Σ": r"$\Sigma$",
})  # fmt: skip
r"""Characters that LaTeX reads as commands or cannot typeset; `[` and `*` would be arguments of a preceding `\\`."""


def encoded(answer: Answer, format: str, width: int | None = None) -> str | bytes:
    """Encode an answer: text for people, bytes for programs. `width` is that of the terminal; None without a terminal."""
    if format == "csv":
        return _csv(answer.frame)
    if format == "json":
        return _json(answer.frame)
    if format == "parquet":
        return bytes(answer.frame.to_parquet(index=False))
    table = answer.frame if answer.readable is None else answer.readable
    if format == "markdown":
        return _markdown(terminal.cells(table), answer.remarks)
    if format == "latex":
        return _latex(terminal.cells(table), answer.remarks)
    return "\n".join([*terminal.lines(table, width), *([""] if answer.remarks else []), *answer.remarks]) + "\n"


def _csv(frame: pd.DataFrame) -> bytes:
    """CSV with nested values as JSON, and with texts of several lines joined to one."""
    columns = {str(name): frame[name].map(_in_one_line) for name in frame.select_dtypes(["object", "string"])}
    return frame.assign(**columns).to_csv(index=False).encode(errors="backslashreplace")


def _in_one_line(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\n", "; ")
    return json.dumps(value) if isinstance(value, list | dict) else value


def _json(frame: pd.DataFrame) -> bytes:
    """A JSON list of objects; missing and non-finite values are null."""
    plain = frame.astype(object).where(frame.notna(), None)
    rows = [
        {name: None if value in (math.inf, -math.inf) else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
    return (json.dumps(rows, indent=1) + "\n").encode()


def _markdown(cells: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """A table in GitHub's Markdown, then a paragraph for each remark."""
    head, *rows = [[cell.translate(_MARKDOWN) for cell in row] for row in cells]
    table = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    paragraphs = [f"\n{remark.translate(_MARKDOWN)}" for remark in remarks if remark]
    return "\n".join([*table, *paragraphs]) + "\n"


def _latex(cells: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """A tabular that needs no package, then the remarks as comments."""
    head, *rows = [" & ".join(map(_in_latex, row)) + r" \\" for row in cells]
    begin = rf"\begin{{tabular}}{{{'l' * len(cells[0])}}}"
    comments = [f"% {remark}" for remark in remarks if remark]
    return "\n".join([begin, r"\hline", head, r"\hline", *rows, r"\hline", r"\end{tabular}", *comments]) + "\n"


def _in_latex(cell: str) -> str:
    return cell.translate(_LATEX).replace("--", "-{}-")  # LaTeX would typeset two hyphens as a dash
