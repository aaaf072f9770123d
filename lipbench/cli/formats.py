"""An answer as a table, csv, json, parquet, markdown or latex.

csv, json and parquet contain the unrounded frame. The others are for people: the readable table, and the remarks below it.
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
r"""What LaTeX would take for a command or cannot set; `[` and `*` would be read as arguments of the `\\` before them."""


def encoded(answer: Answer, format: str, width: int | None = None) -> str | bytes:
    """An answer in a format: text for people, bytes for programs. `width` is that of the terminal, None where there is none."""
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
    """Nested values as JSON, and text of several lines as one line."""
    columns = {str(name): frame[name].map(_in_one_line) for name in frame.select_dtypes(["object", "string"])}
    return frame.assign(**columns).to_csv(index=False).encode()


def _in_one_line(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\n", "; ")
    return json.dumps(value) if isinstance(value, list | dict) else value


def _json(frame: pd.DataFrame) -> bytes:
    """A list of objects; what is missing or not finite is null."""
    plain = frame.astype(object).where(frame.notna(), None)
    rows = [
        {name: None if value in (math.inf, -math.inf) else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
    return (json.dumps(rows, indent=1) + "\n").encode()


def _markdown(cells: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """A table as GitHub's Markdown has it, then a paragraph for each remark."""
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
    return cell.translate(_LATEX).replace("--", "-{}-")  # two hyphens would be set as a dash
